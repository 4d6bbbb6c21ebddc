package torch

import (
	"bytes"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func alive(x Tensor) bool { return Try(func() { x.Numel() }) == nil }

func TestScopes(t *testing.T) {
	inScope(t, func() {
		base := Live()
		var a, b, c, twice, owned Tensor
		Scope(func() {
			Scope(func() {
				a, b, c = Ones([]int64{1}, false), Ones([]int64{1}, false), Ones([]int64{1}, false)
				twice, owned = Ones([]int64{1}, false), Ones([]int64{1}, false)
				if KeepOne(b) != b {
					t.Error("KeepOne returns another tensor")
				}
				Keep(twice, twice, owned)
				c.Free()
				Own(owned)
				Own(owned)
				Keep(owned) // stays owned
			})
			if alive(a) || !alive(b) || alive(c) || !alive(twice) || !alive(owned) || Live() != base+3 {
				t.Errorf("after the inner scope: %v %v %v %v %v, %d alive", alive(a), alive(b), alive(c), alive(twice), alive(owned), Live()-base)
			}
		})
		if alive(b) || !alive(twice) || !alive(owned) || Live() != base+2 {
			t.Errorf("after the outer scope: %v %v %v, %d alive", alive(b), alive(twice), alive(owned), Live()-base)
		}
		twice.Free()
		owned.Free()
	})
}

// TestScopesUnwind leaves scopes and modes by panics and by runtime.Goexit.
func TestScopesUnwind(t *testing.T) {
	before := Live()
	leave := map[string]func(){
		"panic":  func() { panic("out") },
		"error":  func() { Zeros([]int64{-1}, false) },
		"goexit": runtime.Goexit,
	}
	for name, out := range leave {
		var wg sync.WaitGroup
		wg.Go(func() {
			Scope(func() {
				var inner sync.WaitGroup
				inner.Go(func() {
					defer func() { _ = recover() }()
					Scope(func() {
						Ones([]int64{1}, false)
						g := NewGenerator(1)
						Scope(func() {
							Keep(Ones([]int64{1}, false))
							NoGrad(func() { Autocast(BFloat16, func() { Seeded(g, out) }) })
						})
					})
				})
				inner.Wait()
			})
			// The same goroutine goes on with clean modes after a panic that it survives.
			func() {
				defer func() { _ = recover() }()
				if name != "goexit" {
					NoGrad(func() { Autocast(BFloat16, out) })
				}
			}()
			checkModes(t, name, false, false)
		})
		wg.Wait()
		if n := Live() - before; n != 0 {
			t.Errorf("%s leaves %d handles", name, n)
		}
	}
}

// checkModes looks at the modes through what operators do, in a scope of its own.
func checkModes(t *testing.T, where string, noGrad, autocast bool) {
	t.Helper()
	Scope(func() {
		x := Ones([]int64{2, 2}, true)
		y := MM(x, x)
		if y.RequiresGrad() == noGrad {
			t.Errorf("%s: gradients are recorded: %v", where, !noGrad)
		}
		if (y.Dtype() == BFloat16) != autocast {
			t.Errorf("%s: a product is %v", where, y.Dtype())
		}
	})
}

// TestModesStay runs all modes at once in goroutines that yield all the time, on more threads than cores.
func TestModesStay(t *testing.T) {
	first := []float32{.49625659, .76822180}
	ManualSeed(1)
	crowd(16, func(i int) {
		for range 8 {
			Scope(func() {
				g := NewGenerator(0)
				state := g.State()
				checkModes(t, "plain", false, false)
				switch i % 4 {
				case 0:
					NoGrad(func() { runtime.Gosched(); checkModes(t, "NoGrad", true, false) })
				case 1:
					Autocast(BFloat16, func() {
						runtime.Gosched()
						checkModes(t, "Autocast", false, true)
						NoGrad(func() { checkModes(t, "both", true, true) })
						checkModes(t, "Autocast again", false, true)
					})
				case 2:
					Seeded(g, func() {
						runtime.Gosched()
						wantSlice(t, "a seeded draw", Rand([]int64{2}, false), first...)
					})
					if draw := ToSlice[float32](Rand([]int64{2}, false)); draw[0] == first[0] {
						t.Error("the seed leaks out of Seeded")
					}
				case 3:
					// A goroutine started inside a mode has none of it.
					NoGrad(func() {
						Seeded(g, func() {
							done := make(chan struct{})
							go func() {
								defer close(done)
								checkModes(t, "a goroutine started in NoGrad", false, false)
								Scope(func() { Rand([]int64{2}, false) })
							}()
							<-done
						})
					})
					if !Equal(g.State(), state) {
						t.Error("another goroutine drew from the generator")
					}
				}
				runtime.Gosched()
				checkModes(t, "afterwards", false, false)
			})
		}
	})
}

func TestThreads(t *testing.T) {
	before := threadsHere(t)
	defer SetNumThreads(before)
	for _, n := range []int{3, 1, 2} {
		SetNumThreads(n)
		crowd(8, func(int) {
			for range 5 {
				Scope(func() {
					if got := threadsHere(t); got != n {
						t.Errorf("%d threads, want %d", got, n)
					}
				})
				runtime.Gosched()
			}
		})
	}
}

func threadsHere(t *testing.T) int {
	m := regexp.MustCompile(`at::get_num_threads\(\) : (\d+)`).FindStringSubmatch(Build().Config)
	if m == nil {
		t.Fatalf("no number of threads in %s", Build().Config)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHandlesAgainstModel makes, keeps, owns and frees at random in nested scopes, and compares with a map in Go.
func TestHandlesAgainstModel(t *testing.T) {
	const owned = 0
	type handle struct {
		x     Tensor
		value float64
		depth int // of the scope that frees it
		freed bool
	}
	rapid.Check(t, func(r *rapid.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		base := Live()
		var all []*handle
		seen := map[Tensor]bool{}
		depth := 0
		pick := func(r *rapid.T) *handle {
			if len(all) == 0 {
				r.Skip("no handles yet")
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(r, "handle")]
		}
		outcome := func(r *rapid.T, ok bool, fn func()) {
			if err := Try(fn); (err == nil) != ok {
				r.Fatalf("error %v, want success %v", err, ok)
			}
		}
		pop := func() {
			scopePop()
			for _, h := range all {
				h.freed = h.freed || h.depth == depth
			}
			depth--
		}
		defer func() {
			for depth > 0 {
				pop()
			}
			for _, h := range all {
				if !h.freed {
					h.x.Free()
				}
			}
			if Live() != base {
				r.Fatalf("%d handles left", Live()-base)
			}
		}()
		r.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) { scopePush(); depth++ },
			"pop": func(r *rapid.T) {
				if depth == 0 {
					r.Skip("no scope")
				}
				pop()
			},
			"make": func(r *rapid.T) {
				if depth == 0 {
					outcome(r, false, func() { NewTensor(1.0) })
					return
				}
				h := &handle{NewTensor(float64(len(all))), float64(len(all)), depth, false}
				if seen[h.x] {
					r.Fatal("a handle comes twice")
				}
				seen[h.x] = true
				all = append(all, h)
			},
			"free": func(r *rapid.T) {
				h := pick(r)
				outcome(r, !h.freed, h.x.Free)
				h.freed = true
			},
			"keep": func(r *rapid.T) {
				h := pick(r)
				ok := !h.freed && h.depth != 1
				outcome(r, ok, func() { Keep(h.x) })
				if ok && h.depth != owned {
					h.depth--
				}
			},
			"own": func(r *rapid.T) {
				h := pick(r)
				outcome(r, !h.freed, func() { Own(h.x) })
				if !h.freed {
					h.depth = owned
				}
			},
			"": func(r *rapid.T) {
				n := 0
				for _, h := range all {
					if !h.freed {
						n++
					}
				}
				if Live()-base != n {
					r.Fatalf("%d handles alive, want %d", Live()-base, n)
				}
				if len(all) > 0 {
					h := all[len(all)/2]
					outcome(r, !h.freed, func() {
						if v := h.x.Item(); v != h.value {
							r.Fatalf("handle holds %v, want %v", v, h.value)
						}
					})
				}
			},
		})
	})
}

// TestDoubleFreeRace frees the same handles from many goroutines: each is freed exactly once.
func TestDoubleFreeRace(t *testing.T) {
	before := Live()
	var xs []Tensor
	Scope(func() {
		for range 2000 {
			xs = append(xs, NewTensor(1.0))
		}
		Own(xs...)
	})
	var mu sync.Mutex
	freed := 0
	crowd(8, func(int) {
		n := 0
		for _, x := range xs {
			if Try(x.Free) == nil {
				n++
			}
		}
		mu.Lock()
		defer mu.Unlock()
		freed += n
	})
	if freed != len(xs) || Live() != before {
		t.Errorf("%d of %d freed, %d alive", freed, len(xs), Live()-before)
	}
}

// TestHandlesTravel makes and frees in goroutines that hand tensors to one another.
func TestHandlesTravel(t *testing.T) {
	before := Live()
	pipe := make(chan Tensor, 64)
	crowd(8, func(i int) {
		for k := range 300 {
			Scope(func() {
				x := NewTensor(float64(i*1000 + k))
				if i%2 == 0 {
					Own(x)
					pipe <- x
					return
				}
				y := <-pipe
				if v := y.Neg().Item(); v >= 1 || v < -6300 {
					t.Errorf("a tensor arrives as %v", v)
				}
				y.Free()
			})
		}
	})
	if Live() != before {
		t.Errorf("%d handles left", Live()-before)
	}
}

// TestTrainingDoesNotGrow trains a small network for 10,000 steps with a failing call in each tenth.
func TestTrainingDoesNotGrow(t *testing.T) {
	inScope(t, func() {
		w1, w2 := RandN([]int64{64, 64}, false).MulScalar(0.1).SetRequiresGrad(true), Zeros([]int64{64, 2}, true)
		labels := Zeros([]int64{8}, false).CastTo(Long)
		step := func(i int) {
			Scope(func() {
				x := RandN([]int64{8, 64}, false)
				loss := MM(MM(x, w1).Relu(), w2).CrossEntropy(labels, Tensor{}, ReduceMean, -100)
				grads := Grad([]Tensor{loss}, []Tensor{w1, w2})
				NoGrad(func() {
					w1.AddI(grads[0], -0.01)
					w2.AddI(grads[1], -0.01)
				})
				if i%10 == 0 && Try(func() { MM(x, w2).CrossEntropy(x, Tensor{}, ReduceMean, -100); MM(x, x) }) == nil {
					t.Error("a wrong product succeeds")
				}
			})
		}
		for i := range 1000 {
			step(i)
		}
		handles, memory := Live(), resident(t)
		for i := range 9000 {
			step(i)
		}
		if Live() != handles {
			t.Errorf("%d handles more after 9,000 steps", Live()-handles)
		}
		// One 64x64 matrix lost a step would be 140 MiB.
		if grown := resident(t) - memory; grown > 16<<20 {
			t.Errorf("%d KiB more after 9,000 steps", grown>>10)
		}
	})
}

// resident returns the bytes of memory this process occupies.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc/self/statm here: ", err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(bytes.TrimSpace(text)))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
