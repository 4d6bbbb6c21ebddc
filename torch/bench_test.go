package torch

import (
	"fmt"
	"testing"
)

// BenchmarkDoor measures relu of one element, where nothing but the way to the kernel costs: in C++ direct and boxed, and
// from Go.
func BenchmarkDoor(b *testing.B) {
	Scope(func() {
		x := Zeros([]int64{1}, false)
		b.Run("Go", func(b *testing.B) {
			Scope(func() {
				b.ReportAllocs()
				for b.Loop() {
					x.Relu().Free()
				}
				direct, boxed := benchmarkDispatch(x, max(b.N, 1000))
				b.ReportMetric(direct, "ns/direct")
				b.ReportMetric(boxed, "ns/boxed")
			})
		})
		w, stride := Zeros([]int64{1, 1, 1, 1}, false), []int64{1, 1}
		image, padding := Zeros([]int64{1, 1, 1, 1}, false), []int64{0, 0}
		b.Run("conv2d", func(b *testing.B) {
			Scope(func() {
				b.ReportAllocs()
				for b.Loop() {
					image.Conv2d(w, Tensor{}, stride, padding, stride, 1).Free()
				}
			})
		})
		b.Run("error", func(b *testing.B) {
			Scope(func() {
				for b.Loop() {
					_ = Try(func() { image.View(7) })
				}
			})
		})
	})
}

func BenchmarkScope(b *testing.B) {
	Scope(func() {
		x := Zeros([]int64{1}, false)
		for _, n := range []int{0, 1, 100} {
			b.Run(fmt.Sprintf("%d tensors", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Scope(func() {
						for range n {
							x.Detach()
						}
					})
				}
			})
		}
	})
}

func BenchmarkHostCopy(b *testing.B) {
	for _, n := range []int{1, 1 << 20} {
		data := make([]float32, n)
		b.Run(fmt.Sprintf("FromSlice %d", n), func(b *testing.B) {
			b.SetBytes(int64(4 * n))
			Scope(func() {
				for b.Loop() {
					FromSlice(data).Free()
				}
			})
		})
		b.Run(fmt.Sprintf("ToSlice %d", n), func(b *testing.B) {
			b.SetBytes(int64(4 * n))
			Scope(func() {
				x := FromSlice(data)
				for b.Loop() {
					ToSlice[float32](x)
				}
			})
		})
	}
}
