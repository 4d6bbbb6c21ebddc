package run

import (
	"path/filepath"
	"strings"
	"testing"
)

// Noise in proportion to an importance that is the same everywhere is none, and 49 steps would show no more.
func TestNoiseWithoutImportanceIsRefused(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("method", "rawp", "rawp-weight", "importance", "importance", "uniform", "forget", "ids:1")}
	if out := j.run(t.Context(), dir, nil); ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), "there would be no noise at all") {
		t.Errorf("exit code %d, %v", ExitCode(out.err), out.err)
	}
}

// Each request of a stream begins with the weights that the one before left, whatever --anchor says: noise on those that the
// stream began with would take back what was forgotten.
func TestNoiseInAStream(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	models := map[string]string{}
	for _, anchor := range []string{"previous", "first"} {
		j := streamOf(t, `{"id": "a", "forget": "ids:1,13,25", "options": {"method": "neggrad", "lr": 0.01}}
{"id": "b", "forget": "ids:2"}`, "method", "rawp", "anchor", anchor)
		entries := serve(t, dir, j)
		models[anchor] = entries[1].WeightsAfter
	}
	if models["first"] != models["previous"] {
		t.Error("noise is put on other weights under --anchor first")
	}
}
