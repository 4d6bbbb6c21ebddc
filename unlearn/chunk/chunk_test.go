package chunk_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/unlearn/chunk"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// do computes n images on a machine that holds room of them at once, and returns the sizes tried and what was told.
func do(s *chunk.Size, n, room int) (tried []int, err error) {
	for n > 0 && err == nil {
		var done int
		done, err = s.Do(n, func(n int) error {
			tried = append(tried, n)
			if n > room {
				panic(&torch.Error{Op: "aten::empty", Code: torch.OutOfMemory, Msg: "not enough memory"})
			}
			return nil
		})
		n -= done
	}
	return tried, err
}

func TestDo(t *testing.T) {
	for _, c := range []struct {
		size, images, room int
		tried              []int
		told               string
		end                string
	}{
		{8, 20, 100, []int{8, 8, 4}, "", ""},
		{8, 20, 3, []int{8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, "8>4 4>2 ", ""},
		{8, 20, 7, []int{8, 4, 4, 4, 4, 4}, "8>4 ", ""},
		{8, 5, 2, []int{5, 2, 2, 1}, "5>2 ", ""},
		{8, 8, 0, []int{8, 4, 2, 1}, "8>4 4>2 2>1 ", "out of memory with one image at once: aten::empty: not enough memory"},
		{1, 2, 1, []int{1, 1}, "", ""},
		{4, 0, 0, nil, "", ""},
	} {
		told := ""
		tried, err := do(chunk.Shrinking(c.size, func(before, after int) { told += fmt.Sprintf("%d>%d ", before, after) }), c.images, c.room)
		if !slices.Equal(tried, c.tried) || told != c.told || err == nil != (c.end == "") || err != nil && err.Error() != c.end {
			t.Errorf("%+v: tried %v, told %q: %v", c, tried, told, err)
		}
	}
}

// A fixed size says what would help; other errors pass, returned or thrown; the exit code of memory stays to be seen.
func TestErrors(t *testing.T) {
	_, err := do(chunk.Fixed(8), 20, 3)
	var native *torch.Error
	if !errors.As(err, &native) || native.Code != torch.OutOfMemory || !strings.Contains(err.Error(), "with 8 images at once; --batch-size auto") {
		t.Errorf("%v", err)
	}
	never := func(int, int) { t.Error("it shrank") }
	full := errors.New("disk full")
	if _, err := chunk.Shrinking(8, never).Do(8, func(int) error { return full }); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	wrong := &torch.Error{Code: torch.Native}
	if _, err := chunk.Shrinking(8, never).Do(8, func(int) error { panic(wrong) }); !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
}

// Real memory: an allocation that no machine grants is told apart as every other.
func TestRealMemory(t *testing.T) {
	torch.Scope(func() {
		size := chunk.Shrinking(64, func(int, int) {})
		n, err := size.Do(64, func(n int) error {
			torch.Empty([]int64{int64(n/32) << 48}, false) // 0 bytes from 31 on
			return nil
		})
		if n != 16 || size.N() != 16 || err != nil {
			t.Errorf("%d images, size %d: %v", n, size.N(), err)
		}
	})
}

func TestFit(t *testing.T) {
	const kb, mb, gb = 1 << 10, 1 << 20, 1 << 30
	for _, c := range []struct {
		image, memory, cache int64
		want                 int
	}{
		{256 * kb, 8 * gb, 32 * mb, 128},             // the cache decides
		{200 * kb, 8 * gb, 32 * mb, 128},             // a power of two
		{10 * mb, 8 * gb, 32 * mb, 16},               // nothing stays in the cache: enough to do
		{10 * mb, 100 * mb, 32 * mb, 8},              // memory decides
		{10 * mb, 1 * mb, 32 * mb, 1},                // one is the least
		{1, 8 * gb, 32 * mb, 1024},                   // and this the most
		{1 * kb, math.MaxInt64, math.MaxInt64, 1024}, // nobody knows
	} {
		if got := chunk.Fit(c.image, c.memory, c.cache); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestMachine(t *testing.T) {
	const gb = 1 << 30
	meminfo := "MemTotal: 9000000 kB\nMemAvailable:    8388608 kB\n"
	for _, c := range []struct {
		name   string
		files  map[string]string
		memory int64
		cache  int64
	}{
		{"nothing is known", nil, math.MaxInt64, 8 << 20},
		{"a plain machine", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/user.slice\n", "sys/fs/cgroup/memory.max": "max\n",
			"sys/devices/system/cpu/cpu0/cache/index0/size": "32K\n", "sys/devices/system/cpu/cpu0/cache/index3/size": "32768K\n",
		}, 8 * gb, 32 << 20},
		{"a limited group", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/jobs/one\n", "sys/fs/cgroup/jobs/one/memory.max": "4294967296\n",
			"sys/fs/cgroup/jobs/one/memory.current": "3221225472\n", "sys/fs/cgroup/jobs/one/memory.stat": "anon 1\ninactive_file 536870912\n",
		}, 3 * gb / 2, 8 << 20},
		{"a container", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/memory.max": "1073741824\n", "sys/fs/cgroup/memory.current": "1073741825\n",
		}, 0, 8 << 20},
		{"version 1", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "3221225472\n",
			"sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1073741824\n",
		}, 2 * gb, 8 << 20},
		{"a limit above the machine", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "99999999999999\n", "sys/fs/cgroup/memory.current": "5\n",
		}, 8 * gb, 8 << 20},
	} {
		root := fstest.MapFS{}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if memory, cache := chunk.Memory(root), chunk.Cache(root); memory != c.memory || cache != c.cache {
			t.Errorf("%s: memory %d, cache %d, want %d and %d", c.name, memory, cache, c.memory, c.cache)
		}
	}
}
