package data

import (
	"slices"
	"sync"

	"l2ul/torch"
	"l2ul/torch/cuda"
)

// stream sends batches of a set that stays with the host to a device. While the device works on one, a goroutine gathers
// the next from the set, which for a file means that it is read from the disk.
type stream struct {
	set    *Set
	device torch.Device
	slots  [2]slot
	turn   int // the slot to send next
}

// slot is room for a batch. Only its goroutine, while there is one, touches the host's memory.
type slot struct {
	images  []int        // whose pixels are in it, in order
	host    torch.Tensor // Byte [room, C, H, W]; pinned where the device is a GPU, which then copies by itself
	there   torch.Tensor // the same in the GPU's memory; undefined for the CPU
	room    int
	filling sync.WaitGroup
	err     error       // of filling
	sent    *cuda.Event // behind the copy to the GPU
}

// send returns the pixels of images on the device, Byte [k, C, H, W]. They are good until send is called once more. An image
// that cannot be decoded is a panic with *torch.Error, since batches are fetched inside numeric code.
func (s *stream) send(images []int) torch.Tensor {
	b := &s.slots[s.turn]
	if !b.host.Defined() || !slices.Equal(b.images, images) {
		s.fill(b, images)
	}
	b.settle()
	if b.err != nil {
		b.images = nil
		panic(&torch.Error{Op: "data.Loader", Code: torch.Outside, Msg: b.err.Error(), Err: b.err})
	}
	pixels := b.host.Narrow(0, 0, int64(len(images)))
	if s.device.Type == torch.CUDAType {
		there := b.there.Narrow(0, 0, int64(len(images)))
		cuda.Copy(there, pixels)
		b.sent = cuda.CurrentStream(s.device).Record()
		pixels = there
	}
	s.turn = 1 - s.turn
	return pixels
}

// expect begins to gather the images that send will be asked for.
func (s *stream) expect(images []int) { s.fill(&s.slots[s.turn], images) }

// fill begins to gather images in a slot.
func (s *stream) fill(b *slot, images []int) {
	b.settle()
	if !b.host.Defined() || len(images) > b.room {
		s.grow(b, len(images))
	}
	b.images = slices.Clone(images)
	memory, size := b.host.Memory(), s.set.C*s.set.H*s.set.W
	b.filling.Go(func() {
		b.err = s.set.Read(memory[:len(b.images)*size], b.images)
	})
}

// settle waits until nobody uses the host's memory of a slot: not the goroutine that fills it, nor the GPU that copies.
func (b *slot) settle() {
	b.filling.Wait()
	if b.sent != nil {
		b.sent.Synchronize()
		b.sent.Free()
		b.sent = nil
	}
}

// grow makes room for n images. If it panics for want of memory, the slot is empty.
func (s *stream) grow(b *slot, n int) {
	b.free()
	torch.Scope(func() {
		shape := []int64{int64(n), int64(s.set.C), int64(s.set.H), int64(s.set.W)}
		host, there := torch.FromBytes(torch.Byte, make([]byte, n*s.set.C*s.set.H*s.set.W), shape...), torch.Tensor{}
		if s.device.Type == torch.CUDAType {
			host = cuda.Pin(host)
			there = host.To(s.device, torch.Byte)
			torch.Own(there)
		}
		torch.Own(host)
		b.host, b.there, b.room = host, there, n
	})
}

func (b *slot) free() {
	b.settle()
	if b.host.Defined() {
		b.host.Free()
	}
	if b.there.Defined() {
		b.there.Free()
	}
	*b = slot{}
}

func (s *stream) free() {
	for i := range s.slots {
		s.slots[i].free()
	}
}
