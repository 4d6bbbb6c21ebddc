package data

import (
	"fmt"
	"math/bits"
	"slices"
)

// mt19937 is the 32-bit Mersenne Twister (Matsumoto and Nishimura, 1998), the engine of torch's CPU generator.
type mt19937 struct {
	state [624]uint32
	next  int
}

// newMT19937 seeds as torch.Generator.manual_seed does: only the low 32 bits of the seed count.
func newMT19937(seed int64) *mt19937 {
	m := &mt19937{next: len(mt19937{}.state)}
	m.state[0] = uint32(seed)
	for i := 1; i < len(m.state); i++ {
		prev := m.state[i-1]
		m.state[i] = 1812433253*(prev^prev>>30) + uint32(i)
	}
	return m
}

func (m *mt19937) uint32() uint32 {
	if m.next == len(m.state) {
		m.twist()
	}
	y := m.state[m.next]
	m.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

func (m *mt19937) twist() {
	const n, shift = len(m.state), 397
	for i := range n {
		y := m.state[i]&0x80000000 | m.state[(i+1)%n]&0x7fffffff
		m.state[i] = m.state[(i+shift)%n] ^ y>>1 ^ -(y&1)&0x9908b0df
	}
	m.next = 0
}

// maxRandperm is where torch.randperm starts to draw 64 bits a value.
const maxRandperm = (1<<32 - 1) / 20

// randperm returns torch.randperm(n)[:k] as a CPU generator with this seed gives it (torch 2.11, int64): a Fisher-Yates
// shuffle from the front, so the result for k is the beginning of the result for any larger k.
func randperm(n, k int, seed int64) []int {
	if k < 0 || k > n || n >= maxRandperm {
		panic(fmt.Sprintf("data: randperm(%d)[:%d]", n, k))
	}
	rng := newMT19937(seed)
	perm := make([]int, n)
	for i := range perm {
		perm[i] = i
	}
	for i := range min(k, n-1) {
		j := i + int(rng.uint32()%uint32(n-i))
		perm[i], perm[j] = perm[j], perm[i]
	}
	return perm[:k:k]
}

// legacyPermutation returns numpy.random.RandomState(seed).permutation(n), for n below 2^32.
func legacyPermutation(n int, seed int64) []int { return newMT19937(seed).permutation(n) }

// permutation is numpy's: a shuffle from the back, whose draws are cut to the bits that the bound has and drawn again while
// they are above it.
func (m *mt19937) permutation(n int) []int {
	perm := All(n)
	for i := n - 1; i > 0; i-- {
		mask := uint32(1)<<bits.Len32(uint32(i)) - 1
		j := m.uint32() & mask
		for j > uint32(i) {
			j = m.uint32() & mask
		}
		perm[i], perm[j] = perm[j], perm[i]
	}
	return perm
}

// Stratified draws a share n/len(labels) of the samples of each class, rounded down, and returns their indices in ascending
// order. They are those that numpy.random.RandomState(seed) draws with choice(…, replace=False), class after class, as
// programs of the OPTML group do (Unlearn-Saliency, Classification/dataset.py). It panics if n is not in [0, len(labels)].
func Stratified(labels []int, n int, seed int64) []int {
	if n < 0 || n > len(labels) {
		panic(fmt.Sprintf("data.Stratified: %d of %d", n, len(labels)))
	}
	var of [][]int
	for i, y := range labels {
		for len(of) <= y {
			of = append(of, nil)
		}
		of[y] = append(of[y], i)
	}
	rng, drawn := newMT19937(seed), make([]int, 0, n)
	for _, members := range of {
		for _, j := range rng.permutation(len(members))[:len(members)*n/len(labels)] {
			drawn = append(drawn, members[j])
		}
	}
	slices.Sort(drawn)
	return drawn
}
