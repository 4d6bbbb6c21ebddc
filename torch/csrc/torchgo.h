// The bridge between Go and libtorch, in plain C: no C++ and no torch header may be included here, so that
// `go build`, `go vet`, gopls and linters work with nothing but this file.
//
// Conventions. A function that can fail returns a tg_error that the caller frees, or NULL: errors travel in the return
// value of the same call, because a thread-local "last error" is lost when a goroutine moves between threads.
// Tensors and generators are handles: slot number and generation in 64 bits, 0 for "none". Every lookup compares the
// generation, so a freed handle is an error that names the operation, never a wild pointer.
// Results belong to the innermost scope of the calling thread.
#ifndef TORCHGO_H
#define TORCHGO_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t tg_handle;
typedef struct tg_op tg_op;

typedef struct {
  int32_t code;
  char msg[];
} tg_error;

enum {
  TG_ERR_NATIVE = 1,   // libtorch refused: shapes, dtypes, devices, values
  TG_ERR_ARGUMENT,     // an argument does not fit the operator's schema
  TG_ERR_HANDLE,       // a freed or foreign handle
  TG_ERR_SCOPE,        // no scope on this thread, or none above it
  TG_ERR_MEMORY,       // out of memory
  TG_ERR_OPERATOR,     // no such operator or another schema
  TG_ERR_UNSUPPORTED,  // the operator is not implemented for this device or dtype
};

// A tagged argument or result. Lists and strings lie in a flat buffer of 64-bit words beside the values: v is the
// index of the first word, n the number of elements (bytes for a string).
typedef struct {
  int32_t tag;
  int32_t n;
  uint64_t v;
} tg_value;

enum {
  TG_NONE,
  TG_TENSOR,     // v: handle, 0 for an undefined tensor
  TG_INT,        // v: two's complement
  TG_DOUBLE,     // v: IEEE bits
  TG_BOOL,       // v: 0 or 1
  TG_STRING,     // bytes in the flat buffer
  TG_INTS,       // one word each
  TG_DOUBLES,    // one word each
  TG_BOOLS,      // one word each
  TG_TENSORS,    // one handle each
  TG_DTYPE,      // v: c10::ScalarType
  TG_DEVICE,     // v: type << 32 | index + 1
  TG_FORMAT,     // v: c10::MemoryFormat
  TG_GENERATOR,  // v: handle
};

// Results of a call, valid on this thread until its next call.
typedef struct {
  const tg_value* values;
  const uint64_t* flat;
  int32_t n;
  int32_t nflat;
} tg_results;

// What a tensor is. sizes and strides are valid as long as the tensor lives and is not resized.
typedef struct {
  const int64_t* sizes;
  const int64_t* strides;
  int64_t numel;
  int32_t dim;
  int8_t dtype;
  int8_t device_type;
  int16_t device_index;
  uint8_t requires_grad;
  uint8_t contiguous;
  uint8_t channels_last;
  uint8_t is_leaf;
} tg_meta;

void tg_error_free(tg_error* e);

// Operators. declared is the schema the caller was written against: the linked operator must take the same arguments,
// and may only have more of them behind, with defaults.
tg_error* tg_find(const char* name, const char* overload, const char* declared, tg_op** out);
const char* tg_schema(const tg_op* op);
// want limits how many results become handles: 0 for operators called for their effect.
tg_error* tg_call(const tg_op* op, const tg_value* args, int32_t nargs, const uint64_t* flat, int32_t nflat,
                  int32_t want, tg_results* out);
tg_error* tg_load_library(const char* path);

// Scopes and handles.
void tg_scope_push(void);
void tg_scope_pop(void);
tg_error* tg_keep(tg_handle h);  // to the scope above
tg_error* tg_own(tg_handle h);   // out of all scopes
tg_error* tg_free(tg_handle h);
int64_t tg_live(void);
tg_error* tg_borrow(void* at_tensor, tg_handle* out);
void* tg_lend(tg_handle h);  // the at::Tensor behind a live handle, NULL for another: what tg_borrow takes

// Host memory. data and dst hold elements in row-major order; both directions copy.
tg_error* tg_from_host(const void* data, int64_t bytes, int32_t dtype, const int64_t* sizes, int32_t dim,
                       tg_handle* out);
tg_error* tg_to_host(tg_handle h, void* dst, int64_t bytes);
tg_error* tg_memory(tg_handle h, void** data, int64_t* bytes);  // of a contiguous tensor of the CPU, as it lies
tg_error* tg_meta_of(tg_handle h, tg_meta* out);
tg_error* tg_item(tg_handle h, tg_value* out);

// Autograd. grad writes n handles, 0 where an output does not depend on an input.
tg_error* tg_backward(tg_handle output);
tg_error* tg_grad(const tg_handle* outputs, int32_t noutputs, const tg_handle* inputs, int32_t ninputs,
                  const tg_handle* seeds, int32_t retain, int32_t create, tg_handle* out);
tg_error* tg_grad_of(tg_handle h, tg_handle* out);
tg_error* tg_set_grad(tg_handle h, tg_handle grad);
tg_error* tg_set_requires_grad(tg_handle h, int32_t on);

// Modes of the calling thread. Setters return the value before.
int32_t tg_set_grad_mode(int32_t on);
typedef struct {
  int32_t enabled;
  int32_t dtype;
} tg_autocast;
// For every kind of device. The cache of casts is dropped with the outermost mode, and between dtypes.
tg_autocast tg_autocast_enter(tg_autocast mode);
void tg_autocast_leave(tg_autocast before);
tg_error* tg_seeded_enter(tg_handle g);  // operators that are given no generator draw from g
void tg_seeded_leave(void);
void tg_set_threads(int32_t n);  // of this thread's parallel regions

// Generators.
tg_error* tg_generator_new(int64_t seed, uint64_t device, tg_handle* out);  // device as in TG_DEVICE
tg_error* tg_generator_state(tg_handle g, tg_handle* out);
tg_error* tg_generator_set_state(tg_handle g, tg_handle state);
void tg_manual_seed(int64_t seed);

// Process-wide switches and facts.
void tg_set_deterministic(int32_t on);
const char* tg_version(void);
const char* tg_cpu_capability(void);
char* tg_config(void);  // free() it
void tg_shutdown(void);

// The timeline. Between begin and end every operator that ends is noted, up to limit of them; one timeline at a time.
typedef struct {
  const char* name;  // as "aten::conv2d"; valid for ever, the same pointer for the same name
  int64_t begin;     // ns of CLOCK_MONOTONIC
  int64_t end;
  int32_t thread;  // of the operating system
} tg_span;
tg_error* tg_profile_begin(int64_t limit);
void tg_profile_end(const tg_span** spans, int64_t* n, int64_t* lost);  // valid until the next begin

// For the benchmark of the door itself: nanoseconds per call of at::relu, without and with boxing.
tg_error* tg_bench(tg_handle h, int32_t n, double* direct_ns, double* boxed_ns);

#ifdef __cplusplus
}
#endif

#endif
