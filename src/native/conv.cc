// 2-D convolutions and their gradients by oneDNN, as custom operators of MindSpore on CPU: see src/native/conv.py.
//
// MindSpore's own CPU convolution keeps plain (N, C, H, W) layout, for which oneDNN has no AVX-512 kernel, and a
// scratchpad for every layer. Here tensors are float32 outside; inside, oneDNN chooses the layout, one scratchpad serves
// all layers, ReLU is fused, and the gradients of data, weights and bias share their reordered inputs.
//
// Operators come in two layouts. "plain" ones reorder their input and output themselves. "blocked" ones take and give
// tensors whose memory is in blocks of channels (nChw16c, or nChw8c without AVX-512) though their shape says (N, C, H, W):
// inside a stage of residual blocks nothing is reordered, since additions and ReLU do not care about the order.

#include <omp.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "dnnl.hpp"

namespace {

using dnnl::memory;
using Dims = memory::dims;
using Tag = memory::format_tag;
using Type = memory::data_type;

// Operators may be called from several threads of the framework; each uses all cores, so they take turns.
std::mutex turn;
int threads = 0;              // 0 = OpenMP's own choice
Type compute = Type::f32;     // of the multiplications; tensors outside stay float32

dnnl::engine &cpu() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream &queue() {
  static dnnl::stream stream(cpu());
  return stream;
}

bool has(dnnl::cpu_isa wanted) {  // an instruction set's number has the bits of all that it includes
  const auto wanted_bits = static_cast<unsigned>(wanted);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted_bits) == wanted_bits;
}

// Memory that grows and is kept: a gigabyte of fresh memory costs a third of a second in page faults.
class Buffer {
 public:
  void *get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + 4095) / 4096 * 4096;
      data_ = std::aligned_alloc(4096, size_);
      if (!data_) throw std::bad_alloc();
    }
    return data_;
  }

 private:
  void *data_ = nullptr;
  size_t size_ = 0;
};

Buffer scratchpad, input_buffer, weight_buffer, output_buffer, weight_grad_buffer, input_grad_buffer, masked_buffer;

memory::desc image(const Dims &dims, bool blocked) {
  return {dims, Type::f32, !blocked ? Tag::nchw : has(dnnl::cpu_isa::avx512_core) ? Tag::nChw16c : Tag::nChw8c};
}

memory::desc any(const Dims &dims, Type type) { return {dims, type, Tag::any}; }

memory::desc vector(int64_t n) { return {{n}, Type::f32, Tag::a}; }

void reorder(memory &from, memory &to) { dnnl::reorder(from, to).execute(queue(), from, to); }

// `from` itself if it is in the wanted form, else a copy of it in `buffer` that is.
memory in_form(memory &from, const memory::desc &wanted, Buffer &buffer) {
  if (from.get_desc() == wanted) return from;
  memory to(wanted, cpu(), buffer.get(wanted.get_size()));
  reorder(from, to);
  return to;
}

// Where a primitive writes: straight to `target` if the forms agree, else to `buffer`, which deliver() copies over.
memory place(const memory::desc &form, const memory &target, Buffer &buffer) {
  return {form, cpu(), form == target.get_desc() ? target.get_data_handle() : buffer.get(form.get_size())};
}

void deliver(memory &from, memory &target) {
  if (from.get_data_handle() != target.get_data_handle()) reorder(from, target);
}

memory work_space(const memory::desc &form) { return {form, cpu(), scratchpad.get(form.get_size())}; }

struct Convolution {
  using Forward = dnnl::convolution_forward;
  using BackwardData = dnnl::convolution_backward_data;
  using BackwardWeights = dnnl::convolution_backward_weights;
  static constexpr auto algorithm = dnnl::algorithm::convolution_direct;
  static constexpr bool transposed = false;
};

// Weights of a transposed convolution are stored (in, out, k, k), which oneDNN calls (out, in, k, k) in order iohw.
struct Deconvolution {
  using Forward = dnnl::deconvolution_forward;
  using BackwardData = dnnl::deconvolution_backward_data;
  using BackwardWeights = dnnl::deconvolution_backward_weights;
  static constexpr auto algorithm = dnnl::algorithm::deconvolution_direct;
  static constexpr bool transposed = true;
};

// One layer's geometry, derived from its shapes: padding is k / 2, or 1 with kernel 4 and stride 2 when transposed.
struct Shape {
  Dims x, w, y;
  bool relu, blocked;
  Type type;

  bool operator<(const Shape &o) const {
    return std::tie(x, w, y, relu, blocked, type) < std::tie(o.x, o.w, o.y, o.relu, o.blocked, o.type);
  }
};

template <class Kind>
struct Geometry {
  Dims weights, strides, pad_begin, pad_end;

  explicit Geometry(const Shape &s) : weights(s.w) {
    const Dims &large = Kind::transposed ? s.y : s.x, &small = Kind::transposed ? s.x : s.y;
    if (Kind::transposed) std::swap(weights[0], weights[1]);
    const int64_t kernel = s.w[2], stride = large[2] / small[2];
    const int64_t begin = Kind::transposed ? (kernel - stride) / 2 : kernel / 2;
    strides = {stride, stride};
    pad_begin = {begin, begin};
    for (int axis : {2, 3}) pad_end.push_back((small[axis] - 1) * stride + kernel - large[axis] - begin);
  }
};

template <class Kind>
memory::desc stored_weights(const Geometry<Kind> &g) {
  return {g.weights, Type::f32, Kind::transposed ? Tag::iohw : Tag::oihw};
}

dnnl::primitive_attr attributes(bool relu) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (relu) {
    dnnl::post_ops after;
    after.append_eltwise(dnnl::algorithm::eltwise_relu, 0.f, 0.f);
    attr.set_post_ops(after);
  }
  return attr;
}

// Inputs of a blocked float32 operator are taken as they come; in all other cases oneDNN chooses the form.
memory::desc input_form(const Dims &dims, const Shape &s) {
  return s.blocked && s.type == Type::f32 ? image(dims, true) : any(dims, s.type);
}

memory::desc output_form(const Dims &dims, const Shape &s) {
  return s.blocked ? image(dims, true) : any(dims, Type::f32);
}

template <class Kind>
typename Kind::Forward::primitive_desc describe_forward(const Shape &s, bool relu) {
  const Geometry<Kind> g(s);
  return {cpu(), dnnl::prop_kind::forward_training, Kind::algorithm, input_form(s.x, s), any(g.weights, s.type),
          vector(s.y[1]), output_form(s.y, s), g.strides, g.pad_begin, g.pad_end, attributes(relu)};
}

template <class Kind>
struct ForwardLayer {
  typename Kind::Forward::primitive_desc desc;
  typename Kind::Forward run;

  explicit ForwardLayer(const Shape &s) : desc(describe_forward<Kind>(s, s.relu)), run(desc) {}
};

template <class Kind>
struct BackwardLayer {
  typename Kind::BackwardData::primitive_desc data_desc;
  typename Kind::BackwardData data;
  typename Kind::BackwardWeights::primitive_desc weights_desc;
  typename Kind::BackwardWeights weights;

  explicit BackwardLayer(const Shape &s) : BackwardLayer(s, Geometry<Kind>(s), describe_forward<Kind>(s, false)) {}

  BackwardLayer(const Shape &s, const Geometry<Kind> &g, const typename Kind::Forward::primitive_desc &forward)
      : data_desc(cpu(), Kind::algorithm, output_form(s.x, s), any(g.weights, s.type), input_form(s.y, s), g.strides,
                  g.pad_begin, g.pad_end, forward, attributes(false)),
        data(data_desc),
        weights_desc(cpu(), Kind::algorithm, input_form(s.x, s), any(g.weights, Type::f32), vector(s.y[1]),
                     input_form(s.y, s), g.strides, g.pad_begin, g.pad_end, forward, attributes(false)),
        weights(weights_desc) {}
};

template <class Layer>
Layer &layer(const Shape &s) {
  static std::map<Shape, Layer> layers;
  auto found = layers.find(s);
  if (found == layers.end()) found = layers.emplace(s, Layer(s)).first;
  return found->second;
}

Dims dims_of(const int64_t *shape) { return {shape, shape + 4}; }

// x, w, b -> y
template <class Kind>
void forward(void **p, int64_t **shapes, bool relu, bool blocked) {
  const Shape s{dims_of(shapes[0]), dims_of(shapes[1]), dims_of(shapes[3]), relu, blocked, compute};
  auto &l = layer<ForwardLayer<Kind>>(s);
  memory x(image(s.x, blocked), cpu(), p[0]), w(stored_weights(Geometry<Kind>(s)), cpu(), p[1]);
  memory b(vector(s.y[1]), cpu(), p[2]), y(image(s.y, blocked), cpu(), p[3]);
  memory out = place(l.desc.dst_desc(), y, output_buffer);
  l.run.execute(queue(), {{DNNL_ARG_SRC, in_form(x, l.desc.src_desc(), input_buffer)},
                          {DNNL_ARG_WEIGHTS, in_form(w, l.desc.weights_desc(), weight_buffer)},
                          {DNNL_ARG_BIAS, b},
                          {DNNL_ARG_DST, out},
                          {DNNL_ARG_SCRATCHPAD, work_space(l.desc.scratchpad_desc())}});
  deliver(out, y);
}

// The gradient before a ReLU: dy where y > 0, else 0.
float *mask(const float *y, const float *dy, int64_t n) {
  float *masked = static_cast<float *>(masked_buffer.get(n * sizeof(float)));
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; i++) masked[i] = y[i] > 0 ? dy[i] : 0.f;
  return masked;
}

// x, w, y, dy -> dx, dw, db
template <class Kind>
void backward(void **p, int64_t **shapes, bool relu, bool blocked) {
  const Shape s{dims_of(shapes[0]), dims_of(shapes[1]), dims_of(shapes[2]), relu, blocked, compute};
  auto &l = layer<BackwardLayer<Kind>>(s);
  const Geometry<Kind> g(s);
  float *dy = static_cast<float *>(p[3]);
  if (relu) dy = mask(static_cast<float *>(p[2]), dy, s.y[0] * s.y[1] * s.y[2] * s.y[3]);
  memory x(image(s.x, blocked), cpu(), p[0]), w(stored_weights(g), cpu(), p[1]), gy(image(s.y, blocked), cpu(), dy);
  memory dx(image(s.x, blocked), cpu(), p[4]), dw(stored_weights(g), cpu(), p[5]), db(vector(s.y[1]), cpu(), p[6]);

  memory gradient = in_form(gy, l.data_desc.diff_dst_desc(), output_buffer);
  memory dx_out = place(l.data_desc.diff_src_desc(), dx, input_grad_buffer);
  l.data.execute(queue(), {{DNNL_ARG_DIFF_DST, gradient},
                           {DNNL_ARG_WEIGHTS, in_form(w, l.data_desc.weights_desc(), weight_buffer)},
                           {DNNL_ARG_DIFF_SRC, dx_out},
                           {DNNL_ARG_SCRATCHPAD, work_space(l.data_desc.scratchpad_desc())}});
  deliver(dx_out, dx);

  if (gradient.get_desc() != l.weights_desc.diff_dst_desc())
    gradient = in_form(gy, l.weights_desc.diff_dst_desc(), output_buffer);
  memory dw_out = place(l.weights_desc.diff_weights_desc(), dw, weight_grad_buffer);
  l.weights.execute(queue(), {{DNNL_ARG_SRC, in_form(x, l.weights_desc.src_desc(), input_buffer)},
                              {DNNL_ARG_DIFF_DST, gradient},
                              {DNNL_ARG_DIFF_WEIGHTS, dw_out},
                              {DNNL_ARG_DIFF_BIAS, db},
                              {DNNL_ARG_SCRATCHPAD, work_space(l.weights_desc.scratchpad_desc())}});
  deliver(dw_out, dw);
}

// x -> the same values in the other memory order
void change_layout(void **p, int64_t **shapes, bool to_blocked) {
  const Dims dims = dims_of(shapes[0]);
  memory from(image(dims, !to_blocked), cpu(), p[0]), to(image(dims, to_blocked), cpu(), p[1]);
  reorder(from, to);
}

// Runs `work` alone and with the set number of threads; a failure becomes the operator's error.
template <class Work>
int guarded(const char *name, Work work) {
  std::lock_guard<std::mutex> lock(turn);
  try {
    if (threads) omp_set_num_threads(threads);
    work();
    queue().wait();
    return 0;
  } catch (const std::exception &e) {
    std::fprintf(stderr, "native_conv: %s failed: %s\n", name, e.what());
    return 1;
  }
}

}  // namespace

#define OPERATOR(name, work)                                                                               \
  extern "C" int name(int, void **p, int *, int64_t **shapes, const char **, void *, void *) {             \
    return guarded(#name, [&] { work; });                                                                  \
  }
OPERATOR(conv, forward<Convolution>(p, shapes, false, false))
OPERATOR(conv_relu, forward<Convolution>(p, shapes, true, false))
OPERATOR(conv_blocked, forward<Convolution>(p, shapes, false, true))
OPERATOR(conv_relu_blocked, forward<Convolution>(p, shapes, true, true))
OPERATOR(conv_grad, backward<Convolution>(p, shapes, false, false))
OPERATOR(conv_relu_grad, backward<Convolution>(p, shapes, true, false))
OPERATOR(conv_blocked_grad, backward<Convolution>(p, shapes, false, true))
OPERATOR(conv_relu_blocked_grad, backward<Convolution>(p, shapes, true, true))
// The stride follows from the shapes; native_conv.py needs a name for it.
OPERATOR(conv_relu_stride2, forward<Convolution>(p, shapes, true, false))
OPERATOR(conv_relu_stride2_grad, backward<Convolution>(p, shapes, true, false))
OPERATOR(deconv_relu, forward<Deconvolution>(p, shapes, true, false))
OPERATOR(deconv_relu_grad, backward<Deconvolution>(p, shapes, true, false))
OPERATOR(to_blocked, change_layout(p, shapes, true))
OPERATOR(from_blocked, change_layout(p, shapes, false))

// count = 0 leaves the number of threads to OpenMP. Returns 0, or 1 where bfloat16 is asked for and the processor
// has no instructions for it.
extern "C" int native_conv_configure(int count, int bfloat16) {
  if (bfloat16 && !has(dnnl::cpu_isa::avx512_core_bf16)) return 1;
  threads = count;
  compute = bfloat16 ? Type::bf16 : Type::f32;
  return 0;
}
