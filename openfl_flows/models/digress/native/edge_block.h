// The pair states' way through a layer: attention, residual and norm, feed-forward, residual and
// norm.

#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "attention.h"
#include "rows.h"

namespace openfl_flows {

// Names of `weights`: matrices in T as torch.nn.Linear has them, vectors in float.
enum Weight {
  kPacked,
  kPackedBias,
  kOut,
  kOutBias,
  kNorm1,
  kNorm1Bias,
  kUp,
  kUpBias,
  kDown,
  kDownBias,
  kNorm2,
  kNorm2Bias,
  kNumWeights
};

struct EdgeBlock {
  const Tensor &e, &q, &k, &v, &film_mul, &film_add, &sizes;
  at::TensorList w;
  float epsilon;
  Dropout drop1, drop2, drop3;
  int64_t B, N, X, E, F, graphs;

  EdgeBlock(const Tensor& e, const Tensor& q, const Tensor& k, const Tensor& v,
            const Tensor& film_mul, const Tensor& film_add, const Tensor& sizes,
            at::TensorList weights, double epsilon, double probability, int64_t random)
      : e(e),
        q(q),
        k(k),
        v(v),
        film_mul(film_mul),
        film_add(film_add),
        sizes(sizes),
        w(weights),
        epsilon(static_cast<float>(epsilon)),
        drop1(probability, random),
        drop2(probability, random ^ 0x5bf0a8b1457695c3),
        drop3(probability, random ^ 0x2545f4914f6cdd1d),
        B(q.size(0)),
        N(q.size(1)),
        X(q.size(2)),
        E(e.size(-1)),
        F(weights[kUp].size(0)),
        // As many graphs at a time as keep the widest arrays within about 1 MiB.
        graphs(std::max<int64_t>(1, std::min<int64_t>(B, (1 << 20) / (N * N * X * 4)))) {
    TORCH_CHECK(weights.size() == kNumWeights, "expected ", int{kNumWeights}, " weights");
    for (const Tensor& t : {e, q, k, v, film_mul, film_add, sizes})
      TORCH_CHECK(t.is_contiguous(), "expected contiguous tensors");
  }

  Tensor scratch(int64_t rows, int64_t channels) const {
    return at::empty({rows, channels}, q.options());
  }
  const float* vector(Weight name) const { return w[name].const_data_ptr<float>(); }
  Norm norm(Weight name) const { return {vector(name), vector(Weight(name + 1)), epsilon}; }

  template <typename T>
  Graph<T> graph(int64_t b, const T* packed) const {
    const int64_t node = b * N * X;
    return {q.const_data_ptr<T>() + node,
            k.const_data_ptr<T>() + node,
            v.const_data_ptr<T>() + node,
            film_mul.const_data_ptr<T>() + b * X,
            film_add.const_data_ptr<T>() + b * X,
            packed,
            vector(kPackedBias),
            vector(kPackedBias) + X,
            sizes.const_data_ptr<int64_t>()[b],
            N,
            X};
  }
};

// The wide arrays of some graphs, used again for the next ones.
template <typename T>
struct Chunk {
  const EdgeBlock& in;
  Tensor e, packed, pairs, hidden_low, inner;
  std::vector<float> hidden, buffer;
  int64_t from = 0, to = 0, R = 0, first = 0;

  explicit Chunk(const EdgeBlock& block) : in(block) {
    const int64_t most = in.graphs * in.N * in.N;
    e = in.scratch(most, in.E);
    packed = in.scratch(most, 2 * in.X);
    pairs = in.scratch(most, in.X);
    hidden_low = in.scratch(most, in.E);
    inner = in.scratch(most, in.F);
    hidden.resize(most * in.E);
    buffer.resize(4 * in.N * kBlock);
  }

  static T* data(const Tensor& t) { return t.data_ptr<T>(); }
  Tensor rows(const Tensor& t) const { return t.narrow(0, 0, R); }
  Tensor own(const Tensor& whole) const { return whole.narrow(0, first, R); }
  const float* state() const { return in.e.const_data_ptr<float>() + first * in.E; }
  int32_t E() const { return static_cast<int32_t>(in.E); }
  int32_t F() const { return static_cast<int32_t>(in.F); }
  Graph<T> graph(int64_t b) const { return in.graph<T>(b, data(packed) + row(b) * 2 * in.X); }
  int64_t row(int64_t b) const { return (b - from) * in.N * in.N; }

  void begin(int64_t b) {
    from = b;
    to = std::min(in.B, b + in.graphs);
    R = (to - from) * in.N * in.N;
    first = from * in.N * in.N;
    narrow(state(), R * E(), data(e));
    Tensor out = rows(packed);
    at::mm_out(out, rows(e), in.w[kPacked].t());
  }
  // norm1 and the first half of the feed-forward block, from the attention's `change`.
  void widen(const Tensor& change) {
    residual_norm(state(), data(own(change)), in.vector(kOutBias), in.norm(kNorm1), R, E(), first,
                  in.drop1, hidden.data(), data(hidden_low));
    Tensor out = rows(inner);
    at::mm_out(out, rows(hidden_low), in.w[kUp].t());
    relu_dropout(data(inner), in.vector(kUpBias), R, F(), first, in.drop2, data(inner));
  }
};

// New pair states, what the nodes gather, and the two changes of the pair states, for the
// gradients.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> edge_block(
    const Tensor& e, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& film_mul,
    const Tensor& film_add, const Tensor& sizes, at::TensorList weights, double epsilon,
    double probability, int64_t random) {
  const EdgeBlock in(e, q, k, v, film_mul, film_add, sizes, weights, epsilon, probability, random);
  Tensor out = at::empty_like(e), gathered = at::empty_like(q);
  Tensor change1 = in.scratch(in.B * in.N * in.N, in.E), change2 = at::empty_like(change1);
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    Chunk<T> chunk(in);
    for (int64_t from = 0; from < in.B; from += in.graphs) {
      chunk.begin(from);
      for (int64_t b = from; b < chunk.to; ++b)
        attend(chunk.graph(b), chunk.buffer.data(), gathered.data_ptr<T>() + b * in.N * in.X,
               chunk.data(chunk.pairs) + chunk.row(b) * in.X);
      Tensor back = chunk.own(change1), down = chunk.own(change2);
      at::mm_out(back, chunk.rows(chunk.pairs), in.w[kOut].t());
      chunk.widen(change1);
      at::mm_out(down, chunk.rows(chunk.inner), in.w[kDown].t());
      residual_norm<T>(chunk.hidden.data(), chunk.data(down), in.vector(kDownBias), in.norm(kNorm2),
                       chunk.R, chunk.E(), chunk.first, in.drop3,
                       out.data_ptr<float>() + chunk.first * in.E, nullptr);
    }
  });
  return {out, gathered, change1, change2};
}

// Gradients of e, q, k, v, film_mul, film_add and of the weights, these in float.
inline std::vector<Tensor> edge_block_backward(const Tensor& d_out, const Tensor& d_gathered,
                                               const Tensor& e, const Tensor& q, const Tensor& k,
                                               const Tensor& v, const Tensor& film_mul,
                                               const Tensor& film_add, const Tensor& sizes,
                                               const Tensor& change1, const Tensor& change2,
                                               at::TensorList weights, double epsilon,
                                               double probability, int64_t random) {
  const EdgeBlock in(e, q, k, v, film_mul, film_add, sizes, weights, epsilon, probability, random);
  TORCH_CHECK(d_out.is_contiguous() && d_gathered.is_contiguous(), "expected contiguous gradients");
  std::vector<Tensor> d{at::empty_like(e), at::empty_like(q),        at::empty_like(k),
                        at::empty_like(v), at::empty_like(film_mul), at::empty_like(film_add)};
  for (const Tensor& weight : weights) d.push_back(at::zeros(weight.sizes(), e.options()));
  const auto d_weight = [&](Weight name) { return d[6 + name].data_ptr<float>(); };
  const int64_t X = in.X, most = in.graphs * in.N * in.N;
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    Chunk<T> chunk(in);
    const auto data = Chunk<T>::data;
    const int32_t E = chunk.E(), F = chunk.F();
    const Tensor d_change = in.scratch(most, E), d_inner = in.scratch(most, F);
    const Tensor d_e = in.scratch(most, E), d_packed = in.scratch(most, 2 * X);
    std::vector<float> d_hidden(most * E), d_norm(2 * E);
    const auto add_norm = [&](Weight name) {
      add(d_norm.data(), E, d_weight(name));
      add(d_norm.data() + E, E, d_weight(Weight(name + 1)));
      std::fill(d_norm.begin(), d_norm.end(), 0.0f);
    };
    // Of a matrix product: the gradient of its input, and of its weights.
    const auto to_input = [&](const Tensor& d_result, Weight name, const Tensor& d_input) {
      Tensor out = chunk.rows(d_input);
      at::mm_out(out, chunk.rows(d_result), in.w[name]);
    };
    const auto to_weight = [&](const Tensor& d_result, const Tensor& input, Weight name) {
      const Tensor product = at::mm(chunk.rows(d_result).t(), chunk.rows(input));
      add(product.const_data_ptr<T>(), product.numel(), d_weight(name));
    };
    for (int64_t from = 0; from < in.B; from += in.graphs) {
      chunk.begin(from);
      chunk.widen(change1);
      const int64_t R = chunk.R, first = chunk.first;
      residual_norm_backward(d_out.const_data_ptr<float>() + first * E, chunk.hidden.data(),
                             data(chunk.own(change2)), in.vector(kDownBias), in.norm(kNorm2), R, E,
                             first, in.drop3, d_hidden.data(), data(d_change), d_norm.data(),
                             d_weight(kDownBias));
      add_norm(kNorm2);
      to_weight(d_change, chunk.inner, kDown);
      to_input(d_change, kDown, d_inner);
      relu_dropout_backward(data(d_inner), data(chunk.inner), R, F, in.drop2.scale, data(d_inner),
                            d_weight(kUpBias));
      to_weight(d_inner, chunk.hidden_low, kUp);
      to_input(d_inner, kUp, d_e);
      add(data(d_e), R * E, d_hidden.data());
      float* d_state = d[0].data_ptr<float>() + first * E;
      residual_norm_backward(d_hidden.data(), chunk.state(), data(chunk.own(change1)),
                             in.vector(kOutBias), in.norm(kNorm1), R, E, first, in.drop1, d_state,
                             data(d_change), d_norm.data(), d_weight(kOutBias));
      add_norm(kNorm1);
      to_input(d_change, kOut, chunk.pairs);
      for (int64_t b = from; b < chunk.to; ++b) {
        const int64_t node = b * in.N * X;
        const GraphGradients<T> gradients{
            data(d[1]) + node,  data(d[2]) + node,  data(d[3]) + node,
            data(d[4]) + b * X, data(d[5]) + b * X, data(d_packed) + chunk.row(b) * 2 * X};
        attend_backward(chunk.graph(b), d_gathered.const_data_ptr<T>() + node,
                        data(chunk.pairs) + chunk.row(b) * X, chunk.buffer.data(), gradients);
      }
      to_weight(d_change, chunk.pairs, kOut);
      for (int64_t r = 0; r < R; ++r) add(data(d_packed) + r * 2 * X, 2 * X, d_weight(kPackedBias));
      to_weight(d_packed, chunk.e, kPacked);
      to_input(d_packed, kPacked, d_e);
      add(data(d_e), R * E, d_state);
    }
  });
  return d;
}

}  // namespace openfl_flows
