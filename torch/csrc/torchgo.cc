// The bridge's C++ half: handles and scopes, the one generic operator call, autograd, modes, generators.
// Everything an ATen operator can do is reached through tg_call; only what no operator does is written by hand.
#include "torchgo.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/relu.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <dlfcn.h>
#include <malloc.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

// ---- the allocator --------------------------------------------------------------------------------------------------

// glibc gives a large block back to the system as soon as it is freed. A step that makes the same tensors as the one
// before it would spend a fifth of its time on having the same pages cleared for it again, so here the process keeps
// what it once had, in one arena: those of other threads than the first do not hold large blocks. Whoever sets glibc's
// variables decides otherwise.
[[maybe_unused]] const bool keeps_memory = [] {
  for (const char* name : {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}) {
    if (std::getenv(name) != nullptr) return false;
  }
  const int threshold =
      mallopt(M_MMAP_THRESHOLD, 1 << 30) == 1 ? 1 : mallopt(M_MMAP_THRESHOLD, 32 << 20);  // glibc < 2.35
  return (threshold & mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max()) & mallopt(M_ARENA_MAX, 1)) == 1;
}();

// ---- errors ---------------------------------------------------------------------------------------------------------

tg_error* make_error(int32_t code, const char* msg) {
  const size_t n = std::strlen(msg);
  auto* e = static_cast<tg_error*>(std::malloc(sizeof(tg_error) + n + 1));
  if (e == nullptr) std::abort();  // not even room for a sentence
  e->code = code;
  std::memcpy(e->msg, msg, n + 1);
  return e;
}

struct Failure {
  int32_t code;
  std::string msg;
};

[[noreturn]] void fail(int32_t code, std::string msg) { throw Failure{code, std::move(msg)}; }

// Runs fn and turns every exception into an error value: none may cross into Go.
template <class F>
tg_error* guarded(F&& fn) {
  try {
    fn();
    return nullptr;
  } catch (const Failure& e) {
    return make_error(e.code, e.msg.c_str());
  } catch (const c10::OutOfMemoryError& e) {
    return make_error(TG_ERR_MEMORY, e.what_without_backtrace());
  } catch (const c10::NotImplementedError& e) {
    const std::string msg = e.what_without_backtrace();  // its tail lists every backend that exists
    return make_error(TG_ERR_UNSUPPORTED, msg.substr(0, msg.find(" This could be because")).c_str());
  } catch (const c10::Error& e) {
    // The CPU's allocator throws no type of its own.
    const bool memory = std::strstr(e.what_without_backtrace(), "DefaultCPUAllocator: ") != nullptr;
    return make_error(memory ? TG_ERR_MEMORY : TG_ERR_NATIVE, e.what_without_backtrace());
  } catch (const std::bad_alloc& e) {
    return make_error(TG_ERR_MEMORY, e.what());
  } catch (const std::exception& e) {
    return make_error(TG_ERR_NATIVE, e.what());
  } catch (...) {
    return make_error(TG_ERR_NATIVE, "an exception that is no std::exception");
  }
}

// ---- handles --------------------------------------------------------------------------------------------------------

// A slot is live while its generation is odd. depth is the scope that will free it, 0 when it belongs to its owner.
struct Slot {
  std::atomic<uint32_t> generation{0};
  uint32_t depth = 0;
  uint32_t thread = 0;
  at::Tensor tensor;
  at::Generator generator;
};

constexpr uint32_t kChunkBits = 12;
constexpr uint32_t kChunk = 1u << kChunkBits;
constexpr uint32_t kMaxChunks = 1u << 14;  // 67 million live handles

// Chunks are never freed nor moved, so lookups need no lock.
struct Table {
  std::array<std::atomic<Slot*>, kMaxChunks> chunks{};
  std::mutex mu;
  uint32_t used = 0;            // slots ever given out, under mu
  std::vector<uint32_t> spare;  // slots returned by threads, under mu
  std::atomic<int64_t> live{0};
  std::atomic<uint32_t> threads{0};
};

Table& table() {
  static auto* t = new Table;  // never destroyed: Go may call until the process ends
  return *t;
}

Slot& slot_at(uint32_t i) { return table().chunks[i >> kChunkBits].load(std::memory_order_acquire)[i & (kChunk - 1)]; }

// What a thread knows: its scopes, spare slots (taken and given in batches, so the lock is rare), modes, last results.
struct Thread {
  static constexpr size_t kBatch = 256;

  uint32_t id = ++table().threads;
  std::vector<uint32_t> spare;
  std::vector<tg_handle> made;            // handles of all open scopes, oldest first
  std::vector<size_t> marks;              // where each open scope starts in made
  std::vector<at::Generator> generators;  // of the open tg_seeded_enter, innermost last
  int32_t num_threads = 0;
  torch::jit::Stack stack;
  std::vector<tg_value> values;
  std::vector<uint64_t> flat;

  ~Thread() { give_back(spare.size()); }

  void give_back(size_t n) {
    const std::lock_guard<std::mutex> lock(table().mu);
    table().spare.insert(table().spare.end(), spare.end() - static_cast<std::ptrdiff_t>(n), spare.end());
    spare.resize(spare.size() - n);
  }

  uint32_t take() {
    if (spare.empty()) refill();
    const uint32_t i = spare.back();
    spare.pop_back();
    return i;
  }

  void refill() {
    Table& t = table();
    const std::lock_guard<std::mutex> lock(t.mu);
    if (!t.spare.empty()) {
      const size_t n = std::min(kBatch, t.spare.size());
      spare.assign(t.spare.end() - static_cast<std::ptrdiff_t>(n), t.spare.end());
      t.spare.resize(t.spare.size() - n);
      return;
    }
    if (t.used == kMaxChunks * kChunk) fail(TG_ERR_MEMORY, "67 million tensors are alive: a scope is missing");
    if (t.used % kChunk == 0) {
      t.chunks[t.used >> kChunkBits].store(new Slot[kChunk], std::memory_order_release);
    }
    for (size_t i = 0; i < kBatch; i++) spare.push_back(t.used++);
  }

  void drop(uint32_t i) {
    spare.push_back(i);
    if (spare.size() > 4 * kBatch) give_back(2 * kBatch);
  }
};

Thread& self() {
  thread_local Thread t;
  return t;
}

tg_handle handle_of(uint32_t i, uint32_t generation) { return static_cast<uint64_t>(generation) << 32 | (i + 1); }

// Makes a handle in the current scope.
Slot& new_slot(tg_handle* out) {
  Thread& t = self();
  if (t.marks.empty()) {
    fail(TG_ERR_SCOPE, "made outside a scope: nothing would free it. Call this inside torch.Run or torch.Scope");
  }
  const uint32_t i = t.take();
  Slot& s = slot_at(i);
  const uint32_t g = s.generation.load(std::memory_order_relaxed) + 1;
  s.depth = static_cast<uint32_t>(t.marks.size());
  s.thread = t.id;
  s.generation.store(g, std::memory_order_release);
  table().live.fetch_add(1, std::memory_order_relaxed);
  *out = handle_of(i, g);
  t.made.push_back(*out);
  return s;
}

// NULL for a handle that is not live.
Slot* find_slot(tg_handle h) {
  const auto index = static_cast<uint32_t>(h);
  if (index == 0 || (index - 1) >> kChunkBits >= kMaxChunks) return nullptr;
  Slot* chunk = table().chunks[(index - 1) >> kChunkBits].load(std::memory_order_acquire);
  if (chunk == nullptr) return nullptr;
  Slot& s = chunk[(index - 1) & (kChunk - 1)];
  const auto g = static_cast<uint32_t>(h >> 32);
  return (g & 1) == 1 && s.generation.load(std::memory_order_acquire) == g ? &s : nullptr;
}

constexpr const char* kFreed = "the tensor or generator was freed, by Free or at the end of its scope";

// Of several threads that free the same handle only the one that ends the generation may touch the slot; the others get
// false.
bool free_slot(Slot& s, tg_handle h) {
  auto g = static_cast<uint32_t>(h >> 32);
  if (!s.generation.compare_exchange_strong(g, g + 1, std::memory_order_acq_rel)) return false;
  s.tensor.reset();
  s.generator = at::Generator();
  table().live.fetch_sub(1, std::memory_order_relaxed);
  self().drop(static_cast<uint32_t>(h) - 1);
  return true;
}

Slot& live_slot(tg_handle h) {
  if (h == 0) fail(TG_ERR_HANDLE, "the tensor is undefined");
  Slot* s = find_slot(h);
  if (s == nullptr) fail(TG_ERR_HANDLE, kFreed);
  return *s;
}

at::Tensor& tensor(tg_handle h) {
  Slot& s = live_slot(h);
  if (s.generator.defined()) fail(TG_ERR_HANDLE, "this handle is a generator, not a tensor");
  return s.tensor;
}

at::Generator& generator(tg_handle h) {
  Slot& s = live_slot(h);
  if (!s.generator.defined()) fail(TG_ERR_HANDLE, "this handle is a tensor, not a generator");
  return s.generator;
}

// An undefined tensor has no handle.
tg_handle wrap(at::Tensor t) {
  if (!t.defined()) return 0;
  tg_handle h = 0;
  new_slot(&h).tensor = std::move(t);
  return h;
}

// ---- arguments ------------------------------------------------------------------------------------------------------

double as_double(uint64_t v) {
  double d;
  std::memcpy(&d, &v, sizeof d);
  return d;
}

// Numbers that are no scalar type end the process inside libtorch, or fail there as an internal assertion.
c10::ScalarType scalar_type(int64_t v) {
  if (v < 0 || v >= static_cast<int64_t>(c10::ScalarType::NumOptions) ||
      v == static_cast<int64_t>(c10::ScalarType::Undefined)) {
    fail(TG_ERR_ARGUMENT, std::to_string(v) + " is no dtype");
  }
  return static_cast<c10::ScalarType>(v);
}

uint64_t from_double(double d) {
  uint64_t v;
  std::memcpy(&v, &d, sizeof v);
  return v;
}

// The kinds of a schema's arguments, read off the schema once per operator.
enum class Kind : uint8_t {
  Tensor,
  Int,
  Double,
  Bool,
  Scalar,
  String,
  Dtype,
  Device,
  Format,
  Layout,
  Generator,
  Other
};

struct Parameter {
  Kind kind = Kind::Other;
  bool list = false;
  bool optional = false;          // None is allowed
  bool optional_element = false;  // Tensor?[]
  int32_t fixed = 0;              // int[2]: the length a single number is spread to
};

Kind kind_of(const c10::Type& t) {
  switch (t.kind()) {
    case c10::TypeKind::TensorType:
      return Kind::Tensor;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return Kind::Int;
    case c10::TypeKind::FloatType:
      return Kind::Double;
    case c10::TypeKind::BoolType:
      return Kind::Bool;
    case c10::TypeKind::NumberType:
      return Kind::Scalar;
    case c10::TypeKind::StringType:
      return Kind::String;
    case c10::TypeKind::ScalarTypeType:
      return Kind::Dtype;
    case c10::TypeKind::DeviceObjType:
      return Kind::Device;
    case c10::TypeKind::MemoryFormatType:
      return Kind::Format;
    case c10::TypeKind::LayoutType:
      return Kind::Layout;
    case c10::TypeKind::GeneratorType:
      return Kind::Generator;
    default:
      return Kind::Other;
  }
}

Parameter parameter_of(const c10::Argument& a) {
  Parameter p;
  c10::TypePtr t = a.real_type();
  if (t->kind() == c10::TypeKind::OptionalType) {
    p.optional = true;
    t = t->castRaw<c10::OptionalType>()->getElementType();
  }
  if (t->kind() == c10::TypeKind::ListType) {
    p.list = true;
    p.fixed = a.N().value_or(0);
    t = t->castRaw<c10::ListType>()->getElementType();
    if (t->kind() == c10::TypeKind::OptionalType) {
      p.optional_element = true;
      t = t->castRaw<c10::OptionalType>()->getElementType();
    }
  }
  p.kind = kind_of(*t);
  return p;
}

const char* tag_name(int32_t tag) {
  static constexpr std::array names{"nothing",  "a tensor", "an integer", "a float",    "a bool",
                                    "a string", "integers", "floats",     "bools",      "tensors",
                                    "a dtype",  "a device", "a format",   "a generator"};
  return tag >= 0 && static_cast<size_t>(tag) < names.size() ? names[static_cast<size_t>(tag)] : "an unknown tag";
}

c10::Device device_of(uint64_t v) {
  const auto type = static_cast<c10::DeviceType>(v >> 32);
  const int64_t index = int64_t{static_cast<int32_t>(v)} - 1;
  const int64_t last = type == c10::kCPU ? 0 : type == c10::kCUDA ? std::numeric_limits<c10::DeviceIndex>::max() : -2;
  if (index < -1 || index > last) fail(TG_ERR_ARGUMENT, c10::str("there is no device ", index, " of type ", v >> 32));
  return {type, static_cast<c10::DeviceIndex>(index)};
}

int64_t memory_format(uint64_t v) {
  if (v >= static_cast<uint64_t>(c10::MemoryFormat::NumOptions)) {
    fail(TG_ERR_ARGUMENT, std::to_string(static_cast<int64_t>(v)) + " is no memory format");
  }
  return static_cast<int64_t>(v);
}

}  // namespace

struct tg_op {
  c10::OperatorHandle handle;
  std::vector<Parameter> parameters;
  std::string schema;
};

namespace {

// One argument, checked against the schema before the call: libtorch answers a wrong kind with "INTERNAL ASSERT
// FAILED … please report a bug to PyTorch".
class Arguments {
 public:
  Arguments(const tg_op& op, const uint64_t* flat, int32_t nflat) : op_(op), flat_(flat), nflat_(nflat) {}

  c10::IValue convert(size_t i, const tg_value& a) const {
    const Parameter& p = op_.parameters[i];
    if (a.tag == TG_NONE || (a.tag == TG_TENSOR && a.v == 0 && p.kind == Kind::Tensor && !p.list)) return none(i, p);
    return p.list ? list(i, p, a) : single(i, p, a);
  }

  c10::IValue missing(size_t i) const {
    const c10::Argument& arg = op_.handle.schema().arguments()[i];
    if (op_.parameters[i].kind == Kind::Generator && !self().generators.empty()) return self().generators.back();
    if (arg.default_value().has_value()) return *arg.default_value();
    if (op_.parameters[i].optional) return {};
    fail(TG_ERR_ARGUMENT, "argument " + describe(i) + " is missing");
  }

 private:
  std::string describe(size_t i) const {
    const c10::Argument& arg = op_.handle.schema().arguments()[i];
    return std::to_string(i + 1) + " (" + arg.real_type()->str() + " " + arg.name() + ")";
  }

  [[noreturn]] void mismatch(size_t i, const tg_value& a) const {
    fail(TG_ERR_ARGUMENT, "argument " + describe(i) + " was given " + tag_name(a.tag));
  }

  c10::IValue none(size_t i, const Parameter& p) const {
    if (p.kind == Kind::Generator && !self().generators.empty()) return self().generators.back();
    if (p.optional) return {};
    if (p.kind == Kind::Tensor && !p.list) fail(TG_ERR_HANDLE, "argument " + describe(i) + " is an undefined tensor");
    fail(TG_ERR_ARGUMENT, "argument " + describe(i) + " is required");
  }

  const uint64_t* words(size_t i, const tg_value& a, int64_t n) const {
    if (n < 0 || a.v > static_cast<uint64_t>(nflat_) || static_cast<uint64_t>(n) > nflat_ - a.v) {
      fail(TG_ERR_ARGUMENT, "argument " + describe(i) + ": list outside the flat buffer");
    }
    return flat_ + a.v;
  }

  c10::IValue single(size_t i, const Parameter& p, const tg_value& a) const {
    switch (p.kind) {
      case Kind::Tensor:
        if (a.tag == TG_TENSOR) return argument_tensor(i, a.v);
        break;
      case Kind::Int:
        if (a.tag == TG_INT) return static_cast<int64_t>(a.v);
        break;
      case Kind::Double:
        if (a.tag == TG_DOUBLE) return as_double(a.v);
        if (a.tag == TG_INT) return static_cast<double>(static_cast<int64_t>(a.v));
        break;
      case Kind::Bool:
        if (a.tag == TG_BOOL) return a.v != 0;
        break;
      case Kind::Scalar:
        if (a.tag == TG_INT) return static_cast<int64_t>(a.v);
        if (a.tag == TG_DOUBLE) return as_double(a.v);
        if (a.tag == TG_BOOL) return a.v != 0;
        break;
      case Kind::String:
        if (a.tag == TG_STRING) {
          return std::string(reinterpret_cast<const char*>(words(i, a, (a.n + 7) / 8)), static_cast<size_t>(a.n));
        }
        break;
      case Kind::Dtype:
        if (a.tag == TG_DTYPE) return static_cast<int64_t>(scalar_type(static_cast<int64_t>(a.v)));
        break;
      case Kind::Device:
        if (a.tag == TG_DEVICE) return device_of(a.v);
        break;
      case Kind::Format:
        if (a.tag == TG_FORMAT) return memory_format(a.v);
        break;
      case Kind::Generator:
        if (a.tag == TG_GENERATOR) return generator(a.v);
        break;
      case Kind::Layout:
      case Kind::Other:
        break;
    }
    mismatch(i, a);
  }

  at::Tensor argument_tensor(size_t i, tg_handle h) const {
    try {
      return tensor(h);
    } catch (Failure& f) {
      f.msg = "argument " + describe(i) + ": " + f.msg;
      throw;
    }
  }

  template <class T, class F>
  c10::IValue gather(size_t i, const tg_value& a, F&& element) const {
    const uint64_t* w = words(i, a, a.n);
    c10::List<T> l;
    l.reserve(static_cast<size_t>(a.n));
    for (int32_t k = 0; k < a.n; k++) l.push_back(element(w[k]));
    return l;
  }

  c10::IValue list(size_t i, const Parameter& p, const tg_value& a) const {
    switch (p.kind) {
      case Kind::Tensor:
        if (a.tag != TG_TENSORS) break;
        if (p.optional_element) {
          return gather<std::optional<at::Tensor>>(i, a, [&](uint64_t v) {
            return v == 0 ? std::optional<at::Tensor>() : std::optional<at::Tensor>(argument_tensor(i, v));
          });
        }
        return gather<at::Tensor>(i, a, [&](uint64_t v) { return argument_tensor(i, v); });
      case Kind::Int:
        if (a.tag == TG_INT && p.fixed > 0) return c10::List<int64_t>(std::vector<int64_t>(p.fixed, int64_t(a.v)));
        if (a.tag != TG_INTS) break;
        return gather<int64_t>(i, a, [](uint64_t v) { return static_cast<int64_t>(v); });
      case Kind::Double:
        if (a.tag != TG_DOUBLES) break;
        return gather<double>(i, a, as_double);
      case Kind::Bool:
        if (a.tag != TG_BOOLS) break;
        return gather<bool>(i, a, [](uint64_t v) { return v != 0; });
      case Kind::Scalar: {
        if (a.tag != TG_DOUBLES) break;
        const uint64_t* w = words(i, a, a.n);
        c10::impl::GenericList l(c10::NumberType::get());
        for (int32_t k = 0; k < a.n; k++) l.push_back(c10::IValue(as_double(w[k])));
        return l;
      }
      default:
        break;
    }
    mismatch(i, a);
  }

  const tg_op& op_;
  const uint64_t* flat_;
  int32_t nflat_;
};

// ---- results --------------------------------------------------------------------------------------------------------

template <class L, class F>
tg_value flatten(Thread& t, int32_t tag, const L& list, F&& word) {
  const tg_value v{tag, static_cast<int32_t>(list.size()), t.flat.size()};
  for (size_t k = 0; k < list.size(); k++) t.flat.push_back(word(list.get(k)));
  return v;
}

tg_value result(Thread& t, const c10::IValue& v) {
  if (v.isTensor()) return {TG_TENSOR, 0, wrap(v.toTensor())};
  if (v.isNone()) return {TG_NONE, 0, 0};
  if (v.isBool()) return {TG_BOOL, 0, v.toBool() ? 1u : 0u};
  if (v.isInt()) return {TG_INT, 0, static_cast<uint64_t>(v.toInt())};
  if (v.isDouble()) return {TG_DOUBLE, 0, from_double(v.toDouble())};
  if (v.isTensorList()) return flatten(t, TG_TENSORS, v.toTensorList(), [](const at::Tensor& x) { return wrap(x); });
  if (v.isIntList()) return flatten(t, TG_INTS, v.toIntList(), [](int64_t x) { return static_cast<uint64_t>(x); });
  if (v.isDoubleList()) return flatten(t, TG_DOUBLES, v.toDoubleList(), from_double);
  if (v.isBoolList()) return flatten(t, TG_BOOLS, v.toBoolList(), [](bool x) { return uint64_t{x}; });
  if (v.isString()) {
    const std::string& s = v.toStringRef();
    const tg_value r{TG_STRING, static_cast<int32_t>(s.size()), t.flat.size()};
    t.flat.resize(t.flat.size() + (s.size() + 7) / 8);
    std::memcpy(t.flat.data() + r.v, s.data(), s.size());
    return r;
  }
  fail(TG_ERR_UNSUPPORTED, "a result of type " + v.tagKind() + " has no Go form");
}

// The linked schema must take what the caller was written against, in the same order.
void check_schema(const c10::FunctionSchema& linked, const std::string& text, const char* declared) {
  if (text == declared) return;
  const c10::FunctionSchema want = [&] {
    try {
      return torch::jit::parseSchema(declared);
    } catch (const std::exception& e) {
      fail(TG_ERR_OPERATOR, std::string("is declared with what is no schema: ") + e.what());
    }
  }();
  const auto& a = want.arguments();
  const auto& b = linked.arguments();
  bool same = a.size() <= b.size() && want.returns().size() == linked.returns().size();
  for (size_t i = 0; same && i < b.size(); i++) {
    same = i < a.size() ? a[i].name() == b[i].name() && a[i].real_type()->str() == b[i].real_type()->str()
                        : b[i].default_value().has_value();
  }
  if (!same) fail(TG_ERR_OPERATOR, std::string("expects ") + declared + " but this libtorch has " + text);
}

// Clears the operator stack whatever happens, so that no tensor outlives a failed call.
struct StackGuard {
  torch::jit::Stack& stack;
  ~StackGuard() { stack.clear(); }
};

std::vector<at::Tensor> tensors(const tg_handle* h, int32_t n) {
  std::vector<at::Tensor> v;
  v.reserve(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; i++) v.push_back(tensor(h[i]));
  return v;
}

// On every kind of device: which one computes is the tensors' business.
void set_autocast(tg_autocast mode) {
  for (const at::DeviceType kind : {at::kCPU, at::kCUDA}) {
    at::autocast::set_autocast_enabled(kind, mode.enabled != 0);
    at::autocast::set_autocast_dtype(kind, static_cast<c10::ScalarType>(mode.dtype));
  }
}

// ---- the timeline ---------------------------------------------------------------------------------------------------

struct Profile {
  std::mutex mu;
  std::unordered_set<std::string> names;  // grows only: spans point into it
  std::vector<tg_span> spans;
  size_t limit = 0;
  int64_t lost = 0;
  at::CallbackHandle callback = 0;
};

Profile& profile() {
  static auto* p = new Profile;  // never destroyed, as the table
  return *p;
}

int64_t monotonic_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

struct Started : at::ObserverContext {
  int64_t at = monotonic_ns();
};

std::unique_ptr<at::ObserverContext> operator_begins(const at::RecordFunction&) { return std::make_unique<Started>(); }

void operator_ends(const at::RecordFunction& f, at::ObserverContext* begun) {
  const int64_t now = monotonic_ns();
  thread_local const auto thread = static_cast<int32_t>(gettid());
  Profile& p = profile();
  const std::lock_guard<std::mutex> lock(p.mu);
  if (p.spans.size() == p.limit) {
    p.lost++;
    return;
  }
  const char* name = p.names.emplace(f.name()).first->c_str();
  p.spans.push_back({name, static_cast<Started*>(begun)->at, now, thread});
}

double ns_per_call(std::chrono::steady_clock::time_point since, int32_t n) {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - since).count() / n;
}

}  // namespace

extern "C" {

void tg_error_free(tg_error* e) { std::free(e); }

tg_error* tg_find(const char* name, const char* overload, const char* declared, tg_op** out) {
  return guarded([&] {
    auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
    if (!handle.has_value()) fail(TG_ERR_OPERATOR, "no such operator in this process");
    const c10::FunctionSchema& schema = handle->schema();
    std::string text = c10::str(schema);
    check_schema(schema, text, declared);
    auto op = std::make_unique<tg_op>(tg_op{*handle, {}, std::move(text)});
    for (const c10::Argument& a : schema.arguments()) op->parameters.push_back(parameter_of(a));
    *out = op.release();
  });
}

const char* tg_schema(const tg_op* op) { return op->schema.c_str(); }

tg_error* tg_call(const tg_op* op, const tg_value* args, int32_t nargs, const uint64_t* flat, int32_t nflat,
                  int32_t want, tg_results* out) {
  return guarded([&] {
    Thread& t = self();
    t.values.clear();
    t.flat.clear();
    const size_t arity = op->parameters.size();
    const auto given = static_cast<size_t>(nargs);
    if (given > arity) {
      fail(TG_ERR_ARGUMENT, std::to_string(nargs) + " arguments for " + op->schema);
    }
    const StackGuard clear{t.stack};
    const Arguments arguments(*op, flat, nflat);
    for (size_t i = 0; i < arity; i++) {
      t.stack.push_back(i < given ? arguments.convert(i, args[i]) : arguments.missing(i));
    }
    op->handle.callBoxed(t.stack);
    for (size_t i = 0; i < t.stack.size() && i < static_cast<size_t>(want); i++) {
      t.values.push_back(result(t, t.stack[i]));
    }
    *out = {t.values.data(), t.flat.data(), static_cast<int32_t>(t.values.size()), static_cast<int32_t>(t.flat.size())};
  });
}

tg_error* tg_load_library(const char* path) {
  return guarded([&] {
    if (dlopen(path, RTLD_NOW | RTLD_LOCAL) == nullptr) fail(TG_ERR_OPERATOR, dlerror());
  });
}

void tg_scope_push(void) {
  Thread& t = self();
  t.marks.push_back(t.made.size());
}

void tg_scope_pop(void) {
  Thread& t = self();
  const auto depth = static_cast<uint32_t>(t.marks.size());
  const size_t mark = t.marks.back();
  size_t kept = mark;
  for (size_t i = mark; i < t.made.size(); i++) {
    const tg_handle h = t.made[i];
    Slot* s = find_slot(h);
    if (s == nullptr || s->depth == 0) continue;
    if (s->depth < depth) {
      t.made[kept++] = h;
    } else {
      free_slot(*s, h);
    }
  }
  t.made.resize(kept);
  t.marks.pop_back();
}

tg_error* tg_keep(tg_handle h) {
  return guarded([&] {
    Slot& s = live_slot(h);
    if (s.depth == 0) return;
    if (s.thread != self().id) fail(TG_ERR_SCOPE, "the tensor belongs to a scope of another thread");
    if (s.depth == 1) fail(TG_ERR_SCOPE, "there is no scope above this one: use Own and Free it yourself");
    s.depth--;
  });
}

tg_error* tg_own(tg_handle h) {
  return guarded([&] {
    Slot& s = live_slot(h);
    if (s.depth != 0 && s.thread != self().id) fail(TG_ERR_SCOPE, "the tensor belongs to a scope of another thread");
    s.depth = 0;
  });
}

tg_error* tg_free(tg_handle h) {
  return guarded([&] {
    if (!free_slot(live_slot(h), h)) fail(TG_ERR_HANDLE, kFreed);
  });
}

int64_t tg_live(void) { return table().live.load(std::memory_order_relaxed); }

tg_error* tg_borrow(void* at_tensor, tg_handle* out) {
  return guarded([&] {
    if (at_tensor == nullptr) fail(TG_ERR_ARGUMENT, "the pointer is null");
    *out = wrap(*static_cast<at::Tensor*>(at_tensor));
  });
}

void* tg_lend(tg_handle h) {
  Slot* s = find_slot(h);
  return s == nullptr ? nullptr : &s->tensor;
}

tg_error* tg_from_host(const void* data, int64_t bytes, int32_t dtype, const int64_t* sizes, int32_t dim,
                       tg_handle* out) {
  return guarded([&] {
    const at::IntArrayRef shape(sizes, static_cast<size_t>(dim));
    const c10::ScalarType type = scalar_type(dtype);
    // Compared before anything is allocated, since shapes may come from files.
    auto want = static_cast<int64_t>(c10::elementSize(type));
    bool fits = true;
    for (const int64_t n : shape) fits = fits && n >= 0 && !__builtin_mul_overflow(want, n, &want);
    if (!fits || want != bytes) {
      fail(TG_ERR_ARGUMENT, c10::str(bytes, " bytes do not fill a ", type, " tensor of shape ", shape));
    }
    at::Tensor t = at::empty(shape, type);
    if (bytes > 0) std::memcpy(t.mutable_data_ptr(), data, static_cast<size_t>(bytes));
    if (type == at::kBool) {  // any other byte is undefined behaviour in a bool of C++ and of Go
      for (uint8_t& b : std::span(static_cast<uint8_t*>(t.mutable_data_ptr()), static_cast<size_t>(bytes))) b = b != 0;
    }
    *out = wrap(std::move(t));
  });
}

tg_error* tg_to_host(tg_handle h, void* dst, int64_t bytes) {
  return guarded([&] {
    const at::Tensor t = tensor(h).detach().to(at::kCPU).contiguous();
    if (static_cast<int64_t>(t.nbytes()) != bytes) fail(TG_ERR_ARGUMENT, "the destination has another size");
    if (bytes > 0) std::memcpy(dst, t.const_data_ptr(), static_cast<size_t>(bytes));
  });
}

tg_error* tg_memory(tg_handle h, void** data, int64_t* bytes) {
  return guarded([&] {
    const at::Tensor& t = tensor(h);
    if (!t.is_cpu() || !t.is_contiguous()) {
      fail(TG_ERR_ARGUMENT,
           c10::str("only a contiguous tensor of the CPU lies in memory as Go sees it; this one is on ", t.device(),
                    " with strides ", t.strides()));
    }
    *data = t.mutable_data_ptr();
    *bytes = static_cast<int64_t>(t.nbytes());
  });
}

tg_error* tg_meta_of(tg_handle h, tg_meta* out) {
  return guarded([&] {
    const at::Tensor& t = tensor(h);
    *out = tg_meta{
        .sizes = t.sizes().data(),
        .strides = t.strides().data(),
        .numel = t.numel(),
        .dim = static_cast<int32_t>(t.dim()),
        .dtype = static_cast<int8_t>(t.scalar_type()),
        .device_type = static_cast<int8_t>(t.device().type()),
        .device_index = static_cast<int16_t>(t.device().index()),
        .requires_grad = t.requires_grad(),
        .contiguous = t.is_contiguous(),
        .channels_last = t.dim() == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast),
        .is_leaf = t.is_leaf(),
    };
  });
}

tg_error* tg_item(tg_handle h, tg_value* out) {
  return guarded([&] {
    const c10::Scalar s = tensor(h).item();
    if (s.isBoolean()) {
      *out = {TG_BOOL, 0, s.toBool() ? 1u : 0u};
    } else if (s.isIntegral(false)) {
      *out = {TG_INT, 0, static_cast<uint64_t>(s.toLong())};
    } else {
      *out = {TG_DOUBLE, 0, from_double(s.toDouble())};
    }
  });
}

tg_error* tg_backward(tg_handle output) {
  return guarded([&] { torch::autograd::backward({tensor(output)}); });
}

tg_error* tg_grad(const tg_handle* outputs, int32_t noutputs, const tg_handle* inputs, int32_t ninputs,
                  const tg_handle* seeds, int32_t retain, int32_t create, tg_handle* out) {
  return guarded([&] {
    std::vector<at::Tensor> grads = torch::autograd::grad(
        tensors(outputs, noutputs), tensors(inputs, ninputs),
        seeds == nullptr ? std::vector<at::Tensor>() : tensors(seeds, noutputs), retain != 0, create != 0,
        /*allow_unused=*/true);
    for (int32_t i = 0; i < ninputs; i++) out[i] = wrap(std::move(grads[static_cast<size_t>(i)]));
  });
}

tg_error* tg_grad_of(tg_handle h, tg_handle* out) {
  return guarded([&] { *out = wrap(tensor(h).grad()); });
}

tg_error* tg_set_grad(tg_handle h, tg_handle grad) {
  return guarded([&] {
    at::Tensor& t = tensor(h);
    if (grad == 0) {
      t.mutable_grad().reset();
      return;
    }
    const at::Tensor& g = tensor(grad);
    if (g.sizes() != t.sizes() || g.scalar_type() != t.scalar_type() || g.device() != t.device()) {
      fail(TG_ERR_ARGUMENT, "a gradient has the shape, dtype and device of its tensor");
    }
    t.mutable_grad() = g;
  });
}

tg_error* tg_set_requires_grad(tg_handle h, int32_t on) {
  return guarded([&] { tensor(h).requires_grad_(on != 0); });
}

int32_t tg_set_grad_mode(int32_t on) {
  const bool before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(on != 0);
  return before;
}

tg_autocast tg_autocast_enter(tg_autocast mode) {
  const tg_autocast before{at::autocast::is_autocast_enabled(at::kCPU),
                           static_cast<int32_t>(at::autocast::get_autocast_dtype(at::kCPU))};
  at::autocast::increment_nesting();
  if (before.dtype != mode.dtype) at::autocast::clear_cache();  // its keys are tensors without the dtype cast to
  set_autocast(mode);
  return before;
}

void tg_autocast_leave(tg_autocast before) {
  const auto dtype = static_cast<c10::ScalarType>(before.dtype);
  if (at::autocast::decrement_nesting() == 0 || at::autocast::get_autocast_dtype(at::kCPU) != dtype) {
    at::autocast::clear_cache();
  }
  set_autocast(before);
}

tg_error* tg_seeded_enter(tg_handle g) {
  return guarded([&] { self().generators.push_back(generator(g)); });
}

void tg_seeded_leave(void) { self().generators.pop_back(); }

void tg_set_threads(int32_t n) {
  Thread& t = self();
  if (t.num_threads == n) return;
  at::set_num_threads(n);
  t.num_threads = n;
}

tg_error* tg_generator_new(int64_t seed, uint64_t device, tg_handle* out) {
  return guarded([&] {
    const c10::Device on = device_of(device);
    at::Generator made;
    if (on.is_cpu()) {
      made = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
    } else {  // only a copy can be had without CUDA's headers
      at::Generator all = at::globalContext().defaultGenerator(on);
      std::lock_guard<std::mutex> lock(all.mutex());
      made = all.clone();
      made.set_current_seed(static_cast<uint64_t>(seed));
    }
    new_slot(out).generator = std::move(made);
  });
}

tg_error* tg_generator_state(tg_handle g, tg_handle* out) {
  return guarded([&] { *out = wrap(generator(g).get_state()); });
}

tg_error* tg_generator_set_state(tg_handle g, tg_handle state) {
  return guarded([&] { generator(g).set_state(tensor(state)); });
}

void tg_manual_seed(int64_t seed) {
  at::Generator g = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(g.mutex());
  g.set_current_seed(static_cast<uint64_t>(seed));
}

void tg_set_deterministic(int32_t on) {
  at::Context& c = at::globalContext();
  c.setDeterministicAlgorithms(on != 0, /*warn_only=*/true);
  c.setDeterministicFillUninitializedMemory(false);  // costs a pass over every empty(); we never read one unwritten
  c.setDeterministicCuDNN(on != 0);
  c.setBenchmarkCuDNN(false);
}

const char* tg_version(void) { return TORCH_VERSION; }

const char* tg_cpu_capability(void) {
  static const std::string capability = at::get_cpu_capability();
  return capability.c_str();
}

char* tg_config(void) {
  const std::string s = at::show_config() + at::get_parallel_info();
  return strdup(s.c_str());
}

// Go's os.Exit runs no C++ destructors and flushes no C streams.
void tg_shutdown(void) { std::fflush(nullptr); }

tg_error* tg_profile_begin(int64_t limit) {
  return guarded([&] {
    Profile& p = profile();
    {
      const std::lock_guard<std::mutex> lock(p.mu);
      p.spans.clear();
      p.limit = static_cast<size_t>(limit);
      p.lost = 0;
    }
    p.callback = at::addGlobalCallback(at::RecordFunctionCallback(operator_begins, operator_ends)
                                           .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  });
}

void tg_profile_end(const tg_span** spans, int64_t* n, int64_t* lost) {
  Profile& p = profile();
  at::removeCallback(p.callback);
  const std::lock_guard<std::mutex> lock(p.mu);
  p.limit = p.spans.size();  // what still runs elsewhere comes too late
  *spans = p.spans.data();
  *n = static_cast<int64_t>(p.spans.size());
  *lost = p.lost;
}

tg_error* tg_bench(tg_handle h, int32_t n, double* direct_ns, double* boxed_ns) {
  return guarded([&] {
    const at::Tensor t = tensor(h);
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::relu", "");
    auto since = std::chrono::steady_clock::now();
    for (int32_t i = 0; i < n; i++) at::relu(t);
    *direct_ns = ns_per_call(since, n);
    torch::jit::Stack stack;
    since = std::chrono::steady_clock::now();
    for (int32_t i = 0; i < n; i++) {
      stack.emplace_back(t);
      op.callBoxed(stack);
      stack.clear();
    }
    *boxed_ns = ns_per_call(since, n);
  });
}

}  // extern "C"
