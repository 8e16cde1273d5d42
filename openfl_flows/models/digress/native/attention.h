// Attention of one graph: scores_ij = q_i k_j (mul_ij + 1) + add_ij;
// gathered_i = sum_j softmax_j(scores_ij) v_j; pairs_ij = film_add + film_mul scores_ij.

#pragma once

#include <algorithm>
#include <limits>

#include "scalars.h"

namespace openfl_flows {

constexpr int64_t kBlock = 64;  // channels worked on at once: their rows stay in the nearest cache

template <typename T>
struct Graph {
  const T *q, *k, *v;                // (N, X)
  const T *film_mul, *film_add;      // (X)
  const T* packed;                   // (N, N, 2 X): mul and add side by side, without their biases
  const float *mul_bias, *add_bias;  // (X)
  int64_t n, N, X;

  // Scores of node i for `width` channels from c, exp(scores - max), and 1 / their sum over j.
  void weigh(int64_t i, int64_t c, int32_t width, float* scores, float* weights,
             float* scale) const {
    float top[kBlock], query[kBlock];
    const float *mul_shift = mul_bias + c, *add_shift = add_bias + c;
    for (int32_t x = 0; x < width; ++x) top[x] = -std::numeric_limits<float>::infinity();
    widen_row(q + i * X + c, width, query);
    for (int64_t j = 0; j < n; ++j) {
      float* s = scores + j * kBlock;
      const T *mul = packed + (i * N + j) * 2 * X + c, *add = mul + X, *key = k + j * X + c;
#pragma omp simd
      for (int32_t x = 0; x < width; ++x) {
        s[x] = std::fma(query[x] * load(key + x), load(mul + x) + mul_shift[x],
                        load(add + x) + add_shift[x]);
        top[x] = s[x] > top[x] ? s[x] : top[x];
      }
    }
    for (int32_t x = 0; x < width; ++x) scale[x] = 0.0f;
    for (int64_t j = 0; j < n; ++j) {
      const float* s = scores + j * kBlock;
      float* w = weights + j * kBlock;
#pragma omp simd
      for (int32_t x = 0; x < width; ++x) {
        w[x] = exponential(s[x] - top[x]);
        scale[x] += w[x];
      }
    }
#pragma omp simd
    for (int32_t x = 0; x < width; ++x) scale[x] = 1.0f / scale[x];
  }

  int32_t width(int64_t c) const { return static_cast<int32_t>(std::min(kBlock, X - c)); }
};

template <typename T>
void attend(const Graph<T>& g, float* buffer, T* gathered, T* pairs) {
  const int64_t N = g.N, X = g.X, n = g.n;
  float *scores = buffer, *weights = buffer + N * kBlock;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < X; c += kBlock) {
      const int32_t width = g.width(c);
      float scale[kBlock], sum[kBlock] = {}, film_mul[kBlock], film_add[kBlock];
      widen_row(g.film_mul + c, width, film_mul);
      widen_row(g.film_add + c, width, film_add);
      g.weigh(i, c, width, scores, weights, scale);
      for (int64_t j = 0; j < n; ++j) {
        const float *s = scores + j * kBlock, *w = weights + j * kBlock;
        const T* value = g.v + j * X + c;
        T* out = pairs + (i * N + j) * X + c;
#pragma omp simd
        for (int32_t x = 0; x < width; ++x) {
          sum[x] = std::fma(w[x], load(value + x), sum[x]);
          store(out + x, std::fma(s[x], film_mul[x], film_add[x]));
        }
      }
      for (int32_t x = 0; x < width; ++x) sum[x] *= scale[x];
      narrow(sum, width, gathered + i * X + c);
    }
  }
  // Padding takes no part.
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = i < n ? n : 0; j < N; ++j) std::fill_n(pairs + (i * N + j) * X, X, T(0));
  std::fill_n(gathered + n * X, (N - n) * X, T(0));
}

template <typename T>
struct GraphGradients {
  T *q, *k, *v, *film_mul, *film_add, *packed;
};

// With w the softmax: d_scores = w d_gathered (v_j - gathered_i) + d_pairs film_mul. Takes d_pairs
// and leaves pairs in its place.
template <typename T>
void attend_backward(const Graph<T>& g, const T* d_gathered, T* pairs, float* buffer,
                     const GraphGradients<T>& d) {
  const int64_t N = g.N, X = g.X, n = g.n;
  float *scores = buffer, *weights = scores + N * kBlock;
  float *sum_k = weights + N * kBlock, *sum_v = sum_k + N * kBlock;
  for (int64_t c = 0; c < X; c += kBlock) {
    const int32_t width = g.width(c);
    float sum_mul[kBlock] = {}, sum_add[kBlock] = {}, film[kBlock], film_add[kBlock];
    std::fill_n(sum_k, 2 * N * kBlock, 0.0f);
    const float* mul_shift = g.mul_bias + c;
    widen_row(g.film_mul + c, width, film);
    widen_row(g.film_add + c, width, film_add);
    for (int64_t i = 0; i < n; ++i) {
      float scale[kBlock], mean[kBlock] = {}, sum_q[kBlock] = {}, d_g[kBlock], query[kBlock];
      g.weigh(i, c, width, scores, weights, scale);
      for (int64_t j = 0; j < n; ++j) {
        const float* w = weights + j * kBlock;
        const T* value = g.v + j * X + c;
#pragma omp simd
        for (int32_t x = 0; x < width; ++x) mean[x] = std::fma(w[x], load(value + x), mean[x]);
      }
      widen_row(d_gathered + i * X + c, width, d_g);
      widen_row(g.q + i * X + c, width, query);
#pragma omp simd
      for (int32_t x = 0; x < width; ++x) {
        mean[x] *= scale[x];
        d_g[x] *= scale[x];
      }
      for (int64_t j = 0; j < n; ++j) {
        const float *s = scores + j * kBlock, *w = weights + j * kBlock;
        float *dk = sum_k + j * kBlock, *dv = sum_v + j * kBlock;
        const T *key = g.k + j * X + c, *value = g.v + j * X + c;
        const T* mul = g.packed + (i * N + j) * 2 * X + c;
        T* pair = pairs + (i * N + j) * X + c;
        T *d_mul = d.packed + (i * N + j) * 2 * X + c, *d_add = d_mul + X;
#pragma omp simd
        for (int32_t x = 0; x < width; ++x) {
          const float d_p = load(pair + x), d_w = w[x] * d_g[x];
          const float d_s = std::fma(d_w, load(value + x) - mean[x], d_p * film[x]);
          const float d_product = d_s * (load(mul + x) + mul_shift[x]);
          dv[x] += d_w;
          dk[x] = std::fma(d_product, query[x], dk[x]);
          sum_q[x] = std::fma(d_product, load(key + x), sum_q[x]);
          sum_mul[x] = std::fma(d_p, s[x], sum_mul[x]);
          sum_add[x] += d_p;
          store(d_mul + x, d_s * query[x] * load(key + x));
          store(d_add + x, d_s);
          store(pair + x, std::fma(s[x], film[x], film_add[x]));
        }
      }
      narrow(sum_q, width, d.q + i * X + c);
    }
    for (int64_t j = 0; j < n; ++j) {
      narrow(sum_k + j * kBlock, width, d.k + j * X + c);
      narrow(sum_v + j * kBlock, width, d.v + j * X + c);
    }
    narrow(sum_mul, width, d.film_mul + c);
    narrow(sum_add, width, d.film_add + c);
  }
  for (T* padding : {d.q, d.k, d.v}) std::fill_n(padding + n * X, (N - n) * X, T(0));
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = i < n ? n : 0; j < N; ++j) {
      std::fill_n(d.packed + (i * N + j) * 2 * X, 2 * X, T(0));
      std::fill_n(pairs + (i * N + j) * X, X, T(0));
    }
}

}  // namespace openfl_flows
