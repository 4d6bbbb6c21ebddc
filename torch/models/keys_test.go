package models

import (
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
	"l2ul/torch/nn"
)

// TestKeys takes the state of every network to every style that has it, and back to the same.
func TestKeys(t *testing.T) {
	own := []string{"allcnn", "squeezenet1_0", "squeezenet1_1", "wrn-28-10"} // networks that no other project names otherwise
	for _, name := range Names() {
		if slices.Contains(own, name) || reference.Spared(name) {
			continue
		}
		state := stateOf(t, name)
		styles := 0
		for _, style := range keys.Styles() {
			there, err := keys.Convert(state, style)
			if err != nil {
				continue // this project has no such network
			}
			styles++
			ours, found, err := keys.Recognise(there)
			if err == nil && found == "" { // the names alone do not tell
				ours, err = keys.Convert(there, ourStyle(name))
			}
			if err != nil || ours.Hash() != state.Hash() {
				t.Errorf("%s is another network after it was named as %s does: %v", name, style, err)
			}
		}
		if styles < 2 {
			t.Errorf("%s has %d styles", name, styles)
		}
	}
}

// ourStyle is whose names we have for a network.
func ourStyle(name string) keys.Style {
	switch name {
	case "cifar-resnet18", "cifar-resnet50":
		return keys.Weiaicunzai
	case "resnet20", "resnet56":
		return keys.Akamaster
	}
	return keys.Torchvision
}

// stateOf is the state of a network, of values that nobody drew.
func stateOf(t *testing.T, name string) (file *ckpt.File) {
	t.Helper()
	if err := torch.Run(torch.CPU, func() error {
		net, err := New(name, Options{Undrawn: true})
		if err != nil {
			return err
		}
		defer net.Root().Free()
		file = nn.Snapshot(net)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return file
}
