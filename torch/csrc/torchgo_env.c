// libtorchgo_env.so lets the threads of libgomp sleep while they wait for work. By default they spin for milliseconds,
// and wherever another process wants the processors too, that makes both many times slower; waking a thread takes
// microseconds, beside parallel regions that take hundreds.
//
// libgomp reads its environment in its constructor, so the variable has to be there before it, and after the
// constructor of the C library, which sets the environment up. No constructor of the program or of libtorchgo.so runs
// as early. That of a library which needs the C library alone does, if libtorchgo.so names it behind libgomp: among
// libraries that do not need each other, glibc initialises the last one first. A test in cmd/unlearn holds this.
//
// The variable is for libgomp only: Go does not see it, and programs that a Go program starts do not inherit it.
#include <stdlib.h>

__attribute__((constructor)) static void wait_passively(void) {
  if (!getenv("GOMP_SPINCOUNT")) setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
}
