package scripts

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// gpuCheck runs rows of the script that measures on a machine with a GPU, in small on the CPU, with the programs in a folder,
// and decodes what it found.
func gpuCheck(t *testing.T, programs, rows string, report any) error {
	t.Helper()
	result := filepath.Join(t.TempDir(), "result.json")
	cmd := exec.CommandContext(t.Context(), contestantsPython(t), "gpu_check.py", "..", result, "--device", "cpu", "--tiny", "--bin", programs, "--rows", rows)
	out, failed := cmd.CombinedOutput()
	text, err := os.ReadFile(result)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal(text, report); err != nil {
		t.Fatal(err)
	}
	if failed != nil {
		return fmt.Errorf("%w\n%s", failed, out)
	}
	return nil
}

// contestantsPython is one that has what they import.
func contestantsPython(t *testing.T) string {
	t.Helper()
	python := os.Getenv("L2UL_PYTHON")
	if python == "" {
		python = "python3"
	}
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import safetensors, torchvision, torch; torch.__version__").CombinedOutput(); err != nil {
		t.Skipf("%s lacks what the contestants import (set L2UL_PYTHON to one that has it): %v\n%s", python, err, out)
	}
	return python
}

// buildPrograms builds what the rows run, and returns the folder.
func buildPrograms(t *testing.T) string {
	t.Helper()
	contestantsPython(t) // skips before it builds
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./bench/ours", "../cmd/unlearn").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// Contestants start, do the same work, and the result says so.
func TestGPUCheck(t *testing.T) {
	dir := buildPrograms(t)
	// How many contestants each row has. The other rows are these with other numbers.
	contestants := map[string]int{"G4": 3, "G5": 3, "G7": 3, "G8": 3, "G9-vit": 3, "G10": 3, "G10-each": 2, "G11": 3}
	rows := strings.Join(append(slices.Sorted(maps.Keys(contestants)), "G12", "step-32"), ",")
	var report struct {
		Device string
		Rows   map[string]struct {
			Seconds map[string][]float64
			Check   map[string]map[string]float64
			Rungs   map[string]struct {
				Apart float64 `json:"max_l2"`
			}
			Failed any
		} `json:"rows on the CPU: no measurement"`
	}
	if err := gpuCheck(t, dir, rows, &report); err != nil {
		t.Fatal(err)
	}
	if report.Device != "no GPU" {
		t.Errorf("device is %q", report.Device)
	}
	for name, n := range contestants {
		row := report.Rows[name]
		if row.Failed != nil || len(row.Check) != n || len(row.Check["U"]) == 0 {
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

// A contestant that does something else spoils its row: fewer iterations of an attack, fewer images scored, an update that
// ends elsewhere.
func TestGPUCheckSeesOtherWork(t *testing.T) {
	dir := buildPrograms(t)
	honest := filepath.Join(dir, "honest")
	if err := os.Rename(filepath.Join(dir, "ours"), honest); err != nil {
		t.Fatal(err)
	}
	lazy := "#!/bin/sh\n" + `sed -i 's/"iterations": 2/"iterations": 1/; s/"tests": 8/"tests": 6/' "$2/work.json"` + "\n" +
		honest + ` "$@" | sed -u 's/"momentum":[0-9.]*/"momentum":1/'` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "ours"), []byte(lazy), 0o755); err != nil {
		t.Fatal(err)
	}
	var report struct {
		Rows map[string]struct{ Apart []string } `json:"rows on the CPU: no measurement"`
	}
	if err := gpuCheck(t, dir, "G4,G7,G9", &report); err == nil {
		t.Error("the script ends as if all were well")
	}
	for row, number := range map[string]string{"G4": "U: descent", "G7": "U: loss", "G9": "U: momentum"} {
		if !strings.Contains(strings.Join(report.Rows[row].Apart, "\n"), number) {
			t.Errorf("%s: %q does not name %s", row, report.Rows[row].Apart, number)
		}
	}
}
