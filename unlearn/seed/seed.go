// Package seed derives the seed of every named random stream from the one seed a user gives.
//
// Streams that share a seed are correlated and shift when one of them draws more. A purpose and an index of their own
// keep them apart: the attack's starts do not move when the shuffling changes. The forget set alone is drawn with the
// raw seed, so that it equals torch.randperm under the same seed.
package seed

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
)

// For returns the seed of stream (purpose, index) under the user's seed: the first 8 bytes, little endian, of
// sha256("l2ul/<seed>/<purpose>/<index>") with the top bit cleared, so it lies in [0, 2^63).
//
// Purposes are paths such as "attack/starts" or "train/shuffle"; the index counts epochs, samples or draws.
func For(seed int64, purpose string, index int) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "l2ul/%d/%s/%d", seed, purpose, index))
	return int64(binary.LittleEndian.Uint64(sum[:8]) & math.MaxInt64)
}
