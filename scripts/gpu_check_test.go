package scripts

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
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
	ours, result := filepath.Join(dir, "ours"), filepath.Join(dir, "result.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", ours, "./bench/ours").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rows := []string{"G1", "G6", "G8"} // the others are these with other numbers
	cmd := exec.CommandContext(t.Context(), python, "gpu_check.py", "..", result, "--device", "cpu", "--tiny", "--ours", ours, "--rows", "G1,G6,G8,step-32")
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
			Failed  any
		} `json:"rows on the CPU: no measurement"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if report.Device != "no GPU" {
		t.Errorf("device is %q", report.Device)
	}
	for _, name := range rows {
		row := report.Rows[name]
		if row.Failed != nil || len(row.Check) != 3 || row.Check["U"] == 0 {
			t.Errorf("%s: %+v", name, row)
		}
	}
	if len(report.Rows["step-32"].Seconds["U"]) == 0 {
		t.Error("the step of the attack was not measured")
	}
}
