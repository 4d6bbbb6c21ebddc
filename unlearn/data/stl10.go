package data

import (
	"context"
	"os"
	"path/filepath"
	"slices"
)

func init() {
	Register(Dataset{
		Name:      "stl10",
		Summary:   "STL-10, its labelled images, from stl10_binary.tar.gz or the folder that it unpacks to",
		Files:     true,
		Downloads: []Download{{"http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"}},
		Resembles: func(_ context.Context, l look) bool {
			return l.has("stl10_binary.tar.gz", stlFiles["train"][0], "stl10_binary/"+stlFiles["train"][0])
		},
		Open: openSTL10,
	})
}

// stlSize is the height and the width of an image.
const stlSize = 96

// The files of a split (https://cs.stanford.edu/~acoates/stl10): images, as planes stored column by column, and labels from 1.
var stlFiles = map[string][2]string{"train": {"train_X.bin", "train_y.bin"}, "test": {"test_X.bin", "test_y.bin"}}

// stlClasses is class_names.txt, which stands behind two gigabytes of images without labels in the archive.
var stlClasses = []string{"airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"}

func openSTL10(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	var wanted []string
	for _, split := range splits {
		files, ok := stlFiles[split]
		if !ok {
			return nil, unknownSplit("stl10", split, stlFiles)
		}
		wanted = append(wanted, files[:]...)
	}
	where, members, err := readSTL10(ctx, src.Dir, wanted)
	if err != nil {
		return nil, err
	}
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		images, labels := stlFiles[split][0], stlFiles[split][1]
		s := &Set{Dataset: "stl10", Split: split, Classes: stlClasses, C: 3, H: stlSize, W: stlSize}
		const size = 3 * stlSize * stlSize
		if n := len(members[labels]); len(members[images]) != n*size {
			return nil, inputf(where(images), "%d bytes for %d labels in %s; an image has %d", len(members[images]), n, labels, size)
		}
		for j, y := range members[labels] {
			if y < 1 || int(y) > len(stlClasses) {
				return nil, inputf(where(labels), "image %d has label %d, outside 1 to %d", j, y, len(stlClasses))
			}
			s.Labels = append(s.Labels, int(y)-1)
		}
		s.Pixels = byRows(members[images], stlSize)
		sets[i] = s
	}
	return sets, nil
}

// readSTL10 reads files of the archive, of the folder that it unpacks to, or of one of them in dir. where names a file.
func readSTL10(ctx context.Context, dir string, wanted []string) (where func(name string) string, members map[string][]byte, err error) {
	const folder, archive = "stl10_binary", "stl10_binary.tar.gz"
	info, err := os.Stat(dir)
	if err != nil {
		return nil, nil, unreadable(err)
	}
	if info.IsDir() {
		i := slices.IndexFunc([]string{dir, filepath.Join(dir, folder)}, func(d string) bool { return isFile(filepath.Join(d, wanted[0])) })
		if i >= 0 {
			if i == 1 {
				dir = filepath.Join(dir, folder)
			}
			members, err = readMembers(dir, wanted)
			return func(name string) string { return filepath.Join(dir, name) }, members, err
		}
		packed := filepath.Join(dir, archive)
		if !isFile(packed) {
			return nil, nil, inputf(dir, "no stl10 here: looked for %s, %s and %s", wanted[0], folder, archive)
		}
		dir = packed
	}
	members, err = readPacked(ctx, dir, folder, wanted)
	return func(name string) string { return dir + ":" + folder + "/" + name }, members, err
}
