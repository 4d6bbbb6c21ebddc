package config

import (
	"embed"
	"io/fs"
	"slices"
	"strings"

	"l2ul/internal/nearest"
)

//go:embed presets
var presetFiles embed.FS

// Presets lists the names of the built-in configurations, sorted.
func Presets() []string {
	var names []string
	// The file system is embedded: walking it cannot fail.
	_ = fs.WalkDir(presetFiles, "presets", func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(path, ".yaml"); ok && err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(name, "presets/"))
		}
		return err
	})
	slices.Sort(names)
	return names
}

// Preset returns the text of a built-in configuration.
func Preset(name string) ([]byte, error) {
	data, err := presetFiles.ReadFile("presets/" + name + ".yaml")
	if err != nil {
		return nil, &Error{nearest.Unknown("preset", name, Presets())}
	}
	return data, nil
}

func readPreset(name string) ([]entry, error) {
	data, err := Preset(name)
	if err != nil {
		return nil, err
	}
	return parseYAML("preset:"+name, data, FromPreset)
}

// presetHint helps who forgot the prefix.
func presetHint(name string) string {
	if slices.Contains(Presets(), name) {
		return "; did you mean preset:" + name + "?"
	}
	return ""
}
