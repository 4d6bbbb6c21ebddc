package ckpt

import (
	"encoding/binary"
	"io"
	"math/big"

	"l2ul/torch/ckpt/pickle"
)

// The stream of torch.save before PyTorch 1.6, and of _use_new_zipfile_serialization=False since: five pickles in a row (a magic
// number, the version 1001, a dict about the machine, the object, and the keys of its storages), then each storage in the order
// of the keys: the number of its elements in 8 bytes, little-endian, and the elements.

var legacyMagic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

const legacyVersion = 1001

func readLegacy(r io.ReaderAt, size int64) (*File, error) {
	var places map[*storage]int64 // where the elements begin
	p := newPTReader(size, func(s *storage) ([]byte, error) {
		place, ok := places[s]
		if !ok {
			return nil, corrupt("storage %.100q is not in the file", s.key)
		}
		data := make([]byte, s.bytes())
		_, err := io.ReadFull(io.NewSectionReader(r, place, s.bytes()), data)
		return data, err
	})
	section := io.NewSectionReader(r, 0, size)
	in := pickle.NewReader(section)

	magic, err := p.unpickle(in, 0, "the first pickle")
	if err != nil {
		return nil, err
	}
	if n, ok := magic.(*big.Int); !ok || n.Cmp(legacyMagic) != 0 {
		return nil, corrupt("is a pickle, but none of torch.save; load it in Python and save the state dict by torch.save")
	}
	version, err := p.unpickle(in, 0, "the version")
	if err != nil {
		return nil, err
	}
	if n, ok := version.(int64); !ok || n != legacyVersion {
		return nil, corrupt("has the version %d (%s) of torch.save's stream; %d can be read", n, typeName(version), legacyVersion)
	}
	machine, err := p.unpickle(in, 0, "the dict about the machine")
	if err != nil {
		return nil, err
	}
	about, _ := machine.(*pickle.Dict)
	if about == nil {
		return nil, corrupt("has %s for the dict about the machine", typeName(machine))
	}
	if little, _ := about.Get("little_endian"); little != any(true) {
		return nil, corrupt("was written on a big-endian machine; only little-endian files can be read")
	}
	root, err := p.unpickle(in, size, "the object")
	if err != nil {
		return nil, err
	}
	keys, err := p.unpickle(in, size, "the list of storages")
	if err != nil {
		return nil, err
	}
	at, err := section.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	if places, err = placesOf(keys, p.storages, r, at-int64(in.Buffered()), size); err != nil {
		return nil, err
	}
	return p.file(root)
}

// placesOf walks the storages that begin at byte at of the file, in the order of the keys.
func placesOf(keys any, storages map[string]*storage, r io.ReaderAt, at, size int64) (map[*storage]int64, error) {
	list, ok := keys.(*pickle.List)
	if !ok {
		return nil, corrupt("has %s for the list of storages", typeName(keys))
	}
	places := make(map[*storage]int64, len(list.Items))
	for _, item := range list.Items {
		key, _ := pickle.Text(item)
		s := storages[key]
		if s == nil || s.size == 0 {
			return nil, corrupt("storage %.100q is of an unsupported type, or no tensor has it", key)
		}
		if _, twice := places[s]; twice {
			return nil, corrupt("storage %.100q stands twice", key)
		}
		var count [8]byte
		if at > size-int64(len(count)) {
			return nil, corrupt("storage %.100q is missing at byte %d; the file was cut off", key, at)
		}
		if _, err := io.ReadFull(io.NewSectionReader(r, at, int64(len(count))), count[:]); err != nil {
			return nil, err
		}
		at += int64(len(count))
		if n := binary.LittleEndian.Uint64(count[:]); n != uint64(s.numel) { //nolint:gosec // not negative
			return nil, corrupt("storage %.100q has %d elements at byte %d instead of %d", key, n, at, s.numel)
		}
		if s.bytes() > size-at {
			return nil, corrupt("storage %.100q needs %d bytes, but %d are left; the file was cut off", key, s.bytes(), size-at)
		}
		places[s] = at
		at += s.bytes()
	}
	return places, nil
}
