package jpeg

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// drawing is a sequential JPEG file of random coefficients, written as ITU-T T.81 says and no further: tables and values
// are such as no encoder makes.
type drawing struct {
	rng  *rand.Rand
	file []byte

	acc   uint64 // coded bits that are no byte yet
	count int
}

func (d *drawing) chance(percent int) bool { return d.rng.IntN(100) < percent }

// segment writes a marker with parameters.
func (d *drawing) segment(marker byte, parameters ...byte) {
	for d.chance(5) {
		d.file = append(d.file, 0xff) // to fill
	}
	d.file = append(d.file, 0xff, marker)
	d.file = binary.BigEndian.AppendUint16(d.file, uint16(len(parameters)+2))
	d.file = append(d.file, parameters...)
}

// put writes bits of the entropy coded data.
func (d *drawing) put(value uint32, n int) {
	d.acc, d.count = d.acc<<n|uint64(value)&(1<<n-1), d.count+n
	for ; d.count >= 8; d.count -= 8 {
		b := byte(d.acc >> (d.count - 8))
		if d.file = append(d.file, b); b == 0xff {
			d.file = append(d.file, 0)
		}
	}
}

// flush fills the last byte, with bits that nobody may read.
func (d *drawing) flush() {
	if d.count > 0 {
		d.put(d.rng.Uint32(), 8-d.count)
	}
}

// code is a Huffman code: of each symbol its bits and how many.
type code map[byte]struct {
	bits   uint32
	length int
}

// table draws a code for symbols, those that stand first with the shorter ones, and writes it.
func (d *drawing) table(class byte, symbols []byte) code {
	// Leaves of a tree that grows where it is not deep; the last, all ones, stays free.
	leaves := []int{1, 1}
	for len(leaves) <= len(symbols) {
		i := d.rng.IntN(len(leaves))
		if j := d.rng.IntN(len(leaves)); leaves[j] < leaves[i] && d.chance(70) {
			i = j
		}
		if leaves[i] < 16 {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	slices.Sort(leaves)
	counts := make([]byte, 16)
	c, next, last := code{}, uint32(0), 0
	for i, s := range symbols {
		next <<= leaves[i] - last
		last = leaves[i]
		c[s] = struct {
			bits   uint32
			length int
		}{next, last}
		next++
		counts[last-1]++
	}
	d.segment(0xc4, slices.Concat([]byte{class}, counts, symbols)...)
	return c
}

// value writes a symbol whose lower four bits say the size of v, and v.
func (d *drawing) value(c code, zeros, v int) {
	size := bits.Len(uint(max(v, -v)))
	s := c[byte(zeros<<4|size)]
	d.put(s.bits, s.length)
	if v < 0 {
		v--
	}
	d.put(uint32(v), size)
}

// block writes 63 coefficients, each of which is not 0 with a probability, and has a number of bits at most.
func (d *drawing) block(c code, percent, size int) {
	zeros := 0
	for range 63 {
		v := d.rng.IntN(2<<d.rng.IntN(size)) + 1
		if v = min(v, 1<<size-1); d.chance(50) {
			v = -v
		}
		if !d.chance(percent) {
			zeros++
			continue
		}
		for ; zeros > 15; zeros -= 16 {
			d.put(c[0xf0].bits, c[0xf0].length)
		}
		d.value(c, zeros, v)
		zeros = 0
	}
	if zeros > 0 {
		d.put(c[0].bits, c[0].length)
	}
}

// quantisation writes tables of values up to a greatest one.
func (d *drawing) quantisation(most int) {
	for i := range byte(2) {
		table := []byte{i}
		for range 64 {
			q := 1 + d.rng.IntN(most)
			if most > 255 {
				table[0] |= 0x10
				table = append(table, byte(q>>8))
			}
			table = append(table, byte(q))
		}
		d.segment(0xdb, table...)
	}
}

// codes writes tables for differences and for coefficients of so many bits.
func (d *drawing) codes(size int) (dc, ac [2]code) {
	shuffle := func(b []byte) { d.rng.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] }) }
	for i := range byte(2) {
		sizes := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
		shuffle(sizes)
		dc[i] = d.table(i, sizes)
		symbols := []byte{0, 0xf0}
		for s := 1; s <= size; s++ {
			for zeros := range 16 {
				symbols = append(symbols, byte(zeros<<4|s))
			}
		}
		if d.chance(30) {
			shuffle(symbols)
		}
		ac[i] = d.table(0x10|i, symbols)
	}
	return dc, ac
}

// draw makes an image of any of the kinds that baseline decodes. Most have what a photograph could have, some all that 16
// bits hold.
func draw(seed uint64) (file []byte, width, height int) {
	d := &drawing{rng: rand.New(rand.NewPCG(seed, 0)), file: []byte{0xff, 0xd8}}
	if d.chance(50) {
		d.segment(0xe0, append([]byte("JFIF\x00"), 1, 1, 0, 0, 1, 0, 1, 0, 0)...)
	}
	if d.chance(20) {
		d.segment(0xee, append([]byte("Adobe"), 0, 100, 0, 0, 0, 0, 1)...)
	}
	d.segment(0xfe, []byte("drawn")...)

	size, most, percent := 1+d.rng.IntN(8), 1+d.rng.IntN(40), d.rng.IntN(100)
	if d.chance(30) {
		percent /= 10
	}
	extreme := d.chance(30)
	if extreme {
		size, most = 1+d.rng.IntN(15), 1<<(1+d.rng.IntN(16))-1
	}
	d.quantisation(most)

	width, height = 1+d.rng.IntN(70), 1+d.rng.IntN(70)
	factors := [][]byte{{0x11}, {0x11, 0x11, 0x11}, {0x21, 0x11, 0x11}, {0x12, 0x11, 0x11}, {0x22, 0x11, 0x11}}[d.rng.IntN(5)]
	h, v := int(factors[0]>>4), int(factors[0]&15)
	if h == 2 {
		width += 4 // baseline leaves narrower ones to libjpeg
	}
	if len(factors) == 1 && d.chance(30) {
		factors[0] = byte(1+d.rng.IntN(4))<<4 | byte(1+d.rng.IntN(4)) // means nothing to a component alone
	}
	frame := []byte{8, byte(height >> 8), byte(height), byte(width >> 8), byte(width), byte(len(factors))}
	scan := []byte{byte(len(factors))}
	for i, f := range factors {
		table := byte(min(i, 1))
		frame = append(frame, byte(i+1), f, table)
		scan = append(scan, byte(i+1), table*0x11)
	}
	d.segment(byte(0xc0+d.rng.IntN(2)), frame...)
	dc, ac := d.codes(size)
	interval := 0
	if d.chance(30) {
		interval = 1 + d.rng.IntN(9)
		d.segment(0xdd, 0, byte(interval))
	}
	d.segment(0xda, append(scan, 0, 63, 0)...)

	last := make([]int, len(factors))
	for mcu := range ((width + 8*h - 1) / (8 * h)) * ((height + 8*v - 1) / (8 * v)) {
		if interval > 0 && mcu > 0 && mcu%interval == 0 {
			d.flush()
			for d.chance(10) {
				d.file = append(d.file, 0xff)
			}
			d.file = append(d.file, 0xff, byte(0xd0+(mcu/interval-1)%8))
			clear(last)
		}
		for i := range factors {
			blocks := 1
			if i == 0 {
				blocks = h * v
			}
			for range blocks {
				level := (d.rng.IntN(2001) - 1000) / most
				if extreme {
					level = d.rng.IntN(1<<15) - 1<<14
				}
				d.value(dc[min(i, 1)], 0, level-last[i])
				last[i] = level
				d.block(ac[min(i, 1)], percent, size)
			}
		}
	}
	d.flush()
	return append(d.file, 0xff, 0xd9), width, height
}
