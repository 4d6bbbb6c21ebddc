package data

import (
	"fmt"
	"slices"

	"l2ul/torch"
	"l2ul/unlearn/kernels"
)

// Resident is a set on a device: its pixels as bytes, four times smaller than floats, turned into floats as batches are
// taken.
type Resident struct {
	set    *Set
	pixels torch.Tensor // Byte [n, C, H, W]
	labels torch.Tensor // Long [n]
	table  torch.Tensor // Float [C, 256]: the value of each byte in each channel
}

// NewResident copies a set to a device, in the memory format that its batches will have. It must run in a scope; the
// caller frees the result.
func NewResident(set *Set, device torch.Device, format torch.MemoryFormat) *Resident {
	r := &Resident{set: set}
	n, c := int64(set.Len()), int64(set.C)
	torch.Scope(func() {
		labels := make([]int64, n)
		for i, y := range set.Labels {
			labels[i] = int64(y)
		}
		r.pixels = torch.FromBytes(torch.Byte, set.Pixels, n, c, int64(set.H), int64(set.W)).To(device, torch.Byte).Contiguous(format)
		r.labels = torch.FromSlice(labels, n).To(device, torch.Long)
		r.table = PixelTable(set.C).To(device, torch.Float)
		torch.Own(r.pixels, r.labels, r.table)
	})
	return r
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

// Free releases the tensors.
func (r *Resident) Free() {
	r.pixels.Free()
	r.labels.Free()
	r.table.Free()
}

// Gather returns the images with these indices as Float [k, C, H, W] in [0, 1] and their labels as Long [k], in the
// current scope. It counts nothing: what belongs to a run goes through a View. Indices outside the set panic with
// *torch.Error.
func (r *Resident) Gather(indices []int) (x, y torch.Tensor) {
	at := r.index(indices)
	return kernels.GatherLUT(r.pixels, at, r.table), r.labels.IndexSelect(0, at)
}

// GatherCrops is Gather for training: the images are padded with black, cut and mirrored as crops says, Long [k, 3] as
// kernels.GatherCrops has it, on any device.
func (r *Resident) GatherCrops(indices []int, crops torch.Tensor, padding int) (x, y torch.Tensor) {
	at := r.index(indices)
	crops = crops.To(r.pixels.Device(), torch.Long)
	return kernels.GatherCrops(r.pixels, at, r.table, crops, padding), r.labels.IndexSelect(0, at)
}

// index returns indices on the device of the set.
func (r *Resident) index(indices []int) torch.Tensor {
	index := make([]int64, len(indices))
	for i, v := range indices {
		index[i] = int64(v)
	}
	return torch.FromSlice(index, int64(len(index))).To(r.pixels.Device(), torch.Long)
}

// View is some samples of a resident set, in an order, in one role. Every sample it hands out is reported to its meter
// first.
type View struct {
	resident *Resident
	part     Part
	indices  []int
	meter    *Meter
}

// View returns the samples with these indices in the role of part; nil indices are all of them. The meter may be nil
// where nothing is to be counted. It panics if an index is outside the set.
func (r *Resident) View(part Part, indices []int, meter *Meter) *View {
	if indices == nil {
		indices = make([]int, r.set.Len())
		for i := range indices {
			indices[i] = i
		}
	}
	for _, i := range indices {
		if i < 0 || i >= r.set.Len() {
			panic(fmt.Sprintf("data: view of sample %d of a set of %d", i, r.set.Len()))
		}
	}
	return &View{resident: r, part: part, indices: slices.Clone(indices), meter: meter}
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
	x, y = v.resident.Gather(v.indices[from:to])
	return x, y, nil
}
