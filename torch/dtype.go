package torch

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Dtype is the type of a tensor's elements, with libtorch's names and numbers.
type Dtype int8

// The dtypes. Half and BFloat16 have no Go type: use FromBytes, Bytes and CastTo.
const (
	Byte     Dtype = 0 // uint8
	Char     Dtype = 1 // int8
	Short    Dtype = 2 // int16
	Int      Dtype = 3 // int32
	Long     Dtype = 4 // int64
	Half     Dtype = 5 // IEEE 16-bit float
	Float    Dtype = 6 // float32
	Double   Dtype = 7 // float64
	Bool     Dtype = 11
	BFloat16 Dtype = 15
)

var dtypes = map[Dtype]struct {
	name string
	size int
}{
	Byte: {"uint8", 1}, Char: {"int8", 1}, Short: {"int16", 2}, Int: {"int32", 4}, Long: {"int64", 8},
	Half: {"float16", 2}, Float: {"float32", 4}, Double: {"float64", 8}, Bool: {"bool", 1}, BFloat16: {"bfloat16", 2},
}

// String returns PyTorch's name, such as "float32".
func (d Dtype) String() string {
	if t, ok := dtypes[d]; ok {
		return t.name
	}
	return fmt.Sprintf("dtype %d", int8(d))
}

// Size returns the bytes of one element.
func (d Dtype) Size() int { return dtypes[d].size }

func dtypeOf[T Element]() Dtype {
	switch reflect.TypeFor[T]().Kind() {
	case reflect.Uint8:
		return Byte
	case reflect.Int8:
		return Char
	case reflect.Int16:
		return Short
	case reflect.Int32:
		return Int
	case reflect.Int64:
		return Long
	case reflect.Float32:
		return Float
	case reflect.Float64:
		return Double
	default: // the constraint leaves only bool
		return Bool
	}
}

// MemoryFormat is the order in which a tensor's elements lie in memory.
type MemoryFormat int8

// The memory formats. ChannelsLast stores images as NHWC while they keep the shape [N, C, H, W].
const (
	Contiguous   MemoryFormat = 0
	Preserve     MemoryFormat = 1
	ChannelsLast MemoryFormat = 2
)

// DeviceType is a kind of device, with libtorch's numbers.
type DeviceType int8

// The kinds of devices.
const (
	CPUType  DeviceType = 0
	CUDAType DeviceType = 1
)

// Device is where a tensor lives. Index counts the devices of one kind; -1 is the current one.
type Device struct {
	Type  DeviceType
	Index int
}

// CPU is the processor that Go runs on.
var CPU = Device{CPUType, -1}

// CUDA is the GPU of number n, counted from 0. Open it with package torch/cuda before anything else.
func CUDA(n int) Device { return Device{CUDAType, n} }

// NewDevice reads a name as PyTorch writes it: "cpu", "cuda" or "cuda:1". It does not ask whether the device is there.
func NewDevice(name string) (Device, error) {
	kind, index, indexed := strings.Cut(name, ":")
	d := Device{Index: -1}
	switch kind {
	case "cpu":
	case "cuda":
		d.Type = CUDAType
	default:
		return d, fmt.Errorf("unknown device %q: use cpu, cuda or cuda:N", name)
	}
	if indexed {
		n, err := strconv.ParseUint(index, 10, 7)
		if err != nil {
			return d, fmt.Errorf("device %q: %q is not a device number", name, index)
		}
		d.Index = int(n)
	}
	return d, nil
}

// String returns the name that [NewDevice] reads.
func (d Device) String() string {
	name := "cpu"
	if d.Type == CUDAType {
		name = "cuda"
	}
	if d.Index < 0 {
		return name
	}
	return fmt.Sprintf("%s:%d", name, d.Index)
}
