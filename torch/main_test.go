package torch

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if n := Live(); n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d tensors or generators were never freed\n", n)
		code = 1
	}
	Shutdown()
	os.Exit(code)
}
