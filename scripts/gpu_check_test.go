package scripts

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The script that measures on a machine with a GPU runs in small on the CPU: contestants start, do the same work, and the
// result says so.
func TestGPUCheck(t *testing.T) {
	python := os.Getenv("L2UL_PYTHON")
	if python == "" {
		python = "python3"
	}
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import safetensors, torchvision, torch; torch.__version__").CombinedOutput(); err != nil {
		t.Skipf("%s lacks what the contestants import (set L2UL_PYTHON to one that has it): %v\n%s", python, err, out)
	}
	dir := t.TempDir()
	result := filepath.Join(dir, "result.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./bench/ours", "../cmd/unlearn").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// How many contestants each row has. The other rows are these with other numbers.
	contestants := map[string]int{"G4": 3, "G7": 3, "G8": 3, "G10": 3, "G10-each": 2, "G11": 3}
	rows := strings.Join(append(slices.Sorted(maps.Keys(contestants)), "G12", "step-32"), ",")
	cmd := exec.CommandContext(t.Context(), python, "gpu_check.py", "..", result, "--device", "cpu", "--tiny", "--bin", dir, "--rows", rows)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Device string
		Rows   map[string]struct {
			Seconds map[string][]float64
			Check   map[string]float64
			Rungs   map[string]struct {
				Apart float64 `json:"max_l2"`
			}
			Failed any
		} `json:"rows on the CPU: no measurement"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if report.Device != "no GPU" {
		t.Errorf("device is %q", report.Device)
	}
	for name, n := range contestants {
		row := report.Rows[name]
		if row.Failed != nil || len(row.Check) != n || row.Check["U"] == 0 {
			t.Errorf("%s: %+v", name, row)
		}
	}
	rungs := report.Rows["G12"].Rungs
	if len(rungs) != 4 || rungs["fp32"].Apart != 0 || rungs["tf32"].Apart != 0 || rungs["bf16"].Apart == 0 || rungs["reference"].Apart > rungs["bf16"].Apart {
		t.Errorf("G12: %+v", report.Rows["G12"]) // a CPU has no TF32
	}
	if len(report.Rows["step-32"].Seconds["U"]) == 0 {
		t.Error("the step of the attack was not measured")
	}
}
