package data

import (
	"fmt"
	"slices"

	"l2ul/torch"
	"l2ul/unlearn/kernels"
)

// Loader hands out the images of a set on a device. They are bytes, four times smaller than floats, until a batch is
// taken: all of them in the device's memory where there is room, else fetched from the host batch by batch. Either way
// batches have the same bits. Images are without the set's margin; crops reach into it.
type Loader struct {
	set    *Set
	format torch.MemoryFormat
	labels torch.Tensor // Long [n]
	table  torch.Tensor // Float [C, 256]: the value of each byte in each channel
	pixels torch.Tensor // Byte [n, C, H, W], undefined for a stream
	stream *stream      // nil where the device holds the pixels
}

// share is the part of the free memory, one in so many, that the pixels of a set may take. The rest is for networks and
// what they compute, and for the copies on the way there.
const share = 4

// NewLoader returns a loader of a set for a device, whose batches have the memory format. room is how much memory is
// free, in bytes. It must run in a scope; the caller frees the result. Images that cannot be read are a panic with *torch.Error,
// here and in Gather.
func NewLoader(set *Set, device torch.Device, format torch.MemoryFormat, room int64) *Loader {
	l := &Loader{set: set, format: format}
	n := int64(set.Len())
	torch.Scope(func() {
		labels := make([]int64, n)
		for i, y := range set.Labels {
			labels[i] = int64(y)
		}
		l.labels = torch.FromSlice(labels, n).To(device, torch.Long)
		l.table = PixelTable(set.C).To(device, torch.Float)
		if set.lazy != nil && set.lazy.decodes() || set.bytes() > room/share {
			l.stream = &stream{set: set, device: device}
		} else {
			l.pixels = hostPixels(set).To(device, torch.Byte).Contiguous(format)
			torch.Own(l.pixels)
		}
		torch.Own(l.labels, l.table)
	})
	return l
}

var opEmpty = torch.Define("aten::empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// hostPixels returns all pixels of a set, Byte [n, C, H, W].
func hostPixels(set *Set) torch.Tensor {
	pixels := opEmpty.One([]int64{int64(set.Len()), int64(set.C), int64(set.H), int64(set.W)}, torch.Byte)
	if err := set.Read(pixels.Memory(), All(set.Len())); err != nil {
		panic(unread(err))
	}
	return pixels
}

// unread makes of an error of Set.Read one of numeric code.
func unread(err error) *torch.Error {
	return &torch.Error{Op: "data.Loader", Code: torch.Outside, Msg: err.Error(), Err: err}
}

// PixelTable returns what kernels.GatherLUT makes of bytes: value/255 in each channel, Float [channels, 256], in the
// current scope. It is a division, as in pixels.float() / 255: multiplying by the reciprocal differs in the last bit.
func PixelTable(channels int) torch.Tensor {
	table := make([]float32, 0, 256*channels)
	for range channels {
		for value := range 256 {
			table = append(table, float32(value)/255)
		}
	}
	return torch.FromSlice(table, int64(channels), 256)
}

// Remap makes batches of what table gives for each byte, Float [channels, 256] on the CPU, in place of value/255.
func (l *Loader) Remap(table torch.Tensor) { l.table.CopyI(table) }

// Free releases the tensors.
func (l *Loader) Free() {
	l.labels.Free()
	l.table.Free()
	if l.stream == nil {
		l.pixels.Free()
	} else {
		l.stream.free()
	}
}

// Gather returns the images with these indices as Float [k, C, H, W] in [0, 1] and their labels as Long [k], in the
// current scope. It counts nothing: what belongs to a run goes through a View. Indices outside the set, and images that
// cannot be decoded, panic with *torch.Error.
func (l *Loader) Gather(indices []int) (x, y torch.Tensor) {
	pixels, at, y := l.fetch(indices)
	return l.inner(kernels.GatherLUT(pixels, at, l.table)), y
}

// GatherCrops is Gather for training: the images, with their margin and then black around them, are cut and mirrored as crops
// says, Long [k, 3] as kernels.GatherCrops has it, on any device. The middle of the crops is at padding.
func (l *Loader) GatherCrops(indices []int, crops torch.Tensor, padding int) (x, y torch.Tensor) {
	pixels, at, y := l.fetch(indices)
	return l.inner(kernels.GatherCrops(pixels, at, l.table, crops.To(pixels.Device(), torch.Long), padding)), y
}

// inner cuts the margin off images. A window of the images with their margin, moved and mirrored, has in its middle the window
// of those without it.
func (l *Loader) inner(x torch.Tensor) torch.Tensor {
	m := int64(l.set.Margin)
	if m == 0 {
		return x
	}
	return x.Narrow(2, m, x.Size(2)-2*m).Narrow(3, m, x.Size(3)-2*m).Contiguous(l.format)
}

// Expect says which images will probably be asked for next. A stream gathers them while the device works on the last ones.
func (l *Loader) Expect(indices []int) {
	if l.stream != nil && len(indices) > 0 {
		l.check(indices)
		l.stream.expect(indices)
	}
}

// fetch returns labels, and pixels on the device with the places at which the images with these indices are in them.
func (l *Loader) fetch(indices []int) (pixels, at, y torch.Tensor) {
	l.check(indices)
	at = l.index(indices)
	y = l.labels.IndexSelect(0, at)
	if l.stream == nil {
		return l.pixels, at, y
	}
	return l.stream.send(indices).Contiguous(l.format), l.index(All(len(indices))), y
}

func (l *Loader) check(indices []int) {
	for _, i := range indices {
		if i < 0 || i >= l.set.Len() {
			panic(&torch.Error{Op: "data.Loader", Code: torch.Argument, Msg: fmt.Sprintf("image %d of a set of %d", i, l.set.Len())})
		}
	}
}

// index brings indices to the device.
func (l *Loader) index(indices []int) torch.Tensor {
	index := make([]int64, len(indices))
	for i, v := range indices {
		index[i] = int64(v)
	}
	return torch.FromSlice(index, int64(len(index))).To(l.labels.Device(), torch.Long)
}

// All returns the indices of all samples of a set of n.
func All(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

// View is some samples of a loader's set, in an order, in one role. Every sample it hands out is reported to its meter
// first.
type View struct {
	loader  *Loader
	part    Part
	indices []int
	meter   *Meter
}

// View returns the samples with these indices in the role of part; nil indices are all of them. The meter may be nil
// where nothing is to be counted. It panics if an index is outside the set.
func (l *Loader) View(part Part, indices []int, meter *Meter) *View {
	if indices == nil {
		indices = All(l.set.Len())
	}
	for _, i := range indices {
		if i < 0 || i >= l.set.Len() {
			panic(fmt.Sprintf("data: view of sample %d of a set of %d", i, l.set.Len()))
		}
	}
	return &View{loader: l, part: part, indices: slices.Clone(indices), meter: meter}
}

// Len returns the number of samples.
func (v *View) Len() int { return len(v.indices) }

// Indices returns the indices of the samples in the set, in the view's order. The caller must not change them.
func (v *View) Indices() []int { return v.indices }

// Batch returns samples from to to-1 of the view: x Float [n, C, H, W] in [0, 1] and labels y Long [n], in the current
// scope. It fails with *AccessError where the regime forbids the read.
func (v *View) Batch(from, to int) (x, y torch.Tensor, err error) {
	if err := v.meter.Read(v.part, to-from); err != nil {
		return x, y, err
	}
	x, y = v.loader.Gather(v.indices[from:to])
	v.loader.Expect(v.indices[to:min(2*to-from, len(v.indices))])
	return x, y, nil
}
