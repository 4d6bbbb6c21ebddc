package nearest

import (
	"strings"
	"testing"
)

func TestTo(t *testing.T) {
	names := []string{"reg-lambda", "eps", "num-adv", "norm", "method", "weight-decay", "weights"}
	for name, want := range map[string]string{
		"reg-lamda": "reg-lambda", "esp": "eps", "metod": "method", "weight": "weights", "numadv": "num-adv",
		"xyzzy": "", "mo": "", "reg": "reg-lambda", "": "",
	} {
		if got := To(name, names); got != want {
			t.Errorf("To(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestUnknown(t *testing.T) {
	long := strings.Split("abcdefghijklm", "")
	long = append(long, "cifar10")
	if got, want := Unknown("dataset", "cifar11", long), `unknown dataset "cifar11"; did you mean "cifar10"?`; got != want {
		t.Errorf("%s\n%s", got, want)
	}
	for name, want := range map[string]string{
		"cifar11": `unknown dataset "cifar11"; did you mean "cifar10"? one of: cifar10, mnist`,
		"xyzzy":   `unknown dataset "xyzzy"; one of: cifar10, mnist`,
	} {
		if got := Unknown("dataset", name, []string{"cifar10", "mnist"}); got != want {
			t.Errorf("%s\n%s", got, want)
		}
	}
}
