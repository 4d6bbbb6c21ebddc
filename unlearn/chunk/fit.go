package chunk

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
	"path"
	"strconv"
	"strings"
)

// fewest images keep all cores busy, where memory allows them; more than most gain nothing.
const fewest, most = 16, 1024

// Fit is how many images of so many bytes each are computed at once, a power of two: their values stay in the cache, if that
// leaves enough to do, and all fits into memory.
func Fit(image, memory, cache int64) int {
	n := min(max(cache/image, fewest), memory/image, most)
	return 1 << (bits.Len64(uint64(max(n, 1))) - 1)
}

// Memory is what a process of this machine can still take, in bytes: what the system calls available, or less where a
// control group allows less. root is the root of the file system. Linux gives memory that it does not have and later ends
// the process, so this has to be asked before.
func Memory(root fs.FS) int64 {
	free := int64(math.MaxInt64)
	if kilobytes, ok := field(root, "proc/meminfo", "MemAvailable:"); ok {
		free = kilobytes << 10
	}
	for _, g := range groups(root) {
		limit, ok := number(root, path.Join(g.dir, g.limit))
		used, known := number(root, path.Join(g.dir, g.usage))
		if !ok || !known {
			continue
		}
		cached, _ := field(root, path.Join(g.dir, "memory.stat"), g.cached) // files that it gives up when asked
		free = min(free, max(limit-used+cached, 0))
	}
	return free
}

// group is where a control group keeps its numbers.
type group struct{ dir, limit, usage, cached string }

// groups lists the memory controllers of this process, version 2 and 1. In a container the path that the kernel tells may be
// that of the host, and the group's files lie at the top.
func groups(root fs.FS) (list []group) {
	text, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy:controllers:path
		if len(part) < 3 {
			continue
		}
		for _, at := range []string{part[2], "/"} {
			switch {
			case part[0] == "0":
				list = append(list, group{path.Join("sys/fs/cgroup", at), "memory.max", "memory.current", "inactive_file"})
			case part[1] == "memory":
				list = append(list, group{path.Join("sys/fs/cgroup/memory", at), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"})
			}
		}
	}
	return list
}

// Cache is the size of the processor's largest cache in bytes; 8 MiB where the system does not tell.
func Cache(root fs.FS) (size int64) {
	files, _ := fs.Glob(root, "sys/devices/system/cpu/cpu0/cache/index*/size")
	for _, file := range files {
		var kilobytes int64
		if text, err := fs.ReadFile(root, file); err == nil {
			if _, err := fmt.Sscanf(string(text), "%dK", &kilobytes); err == nil {
				size = max(size, kilobytes<<10)
			}
		}
	}
	return cmp.Or(size, 8<<20)
}

// number reads a file that holds one.
func number(root fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil // "max" is no limit
}

// field reads the number behind a name at the beginning of a line.
func field(root fs.FS, name, key string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if part := strings.Fields(line); len(part) >= 2 && part[0] == key {
			n, err := strconv.ParseInt(part[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
