// Row operations on R rows of C channels, the first of them being row `first` of its array.

#pragma once

#include <vector>

#include "scalars.h"

namespace openfl_flows {

// sum = state + dropout(change + bias)
template <typename T>
void sum_row(const float* state, const T* change, const float* bias, int32_t C, uint32_t index,
             const Dropout drop, float* sum) {
  if (drop.threshold) {
#pragma omp simd
    for (int32_t x = 0; x < C; ++x)
      sum[x] = std::fma(load(change + x) + bias[x], drop.factor(index + x), state[x]);
  } else {
#pragma omp simd
    for (int32_t x = 0; x < C; ++x) sum[x] = state[x] + (load(change + x) + bias[x]);
  }
}

struct Norm {
  const float *weight, *bias;
  float epsilon;
};

struct Moments {
  float mean, scale;  // scale is 1 / standard deviation
};

inline Moments moments(const float* row, int32_t C, float epsilon) {
  float total = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int32_t x = 0; x < C; ++x) total += row[x];
  const float mean = total / C;
#pragma omp simd reduction(+ : square)
  for (int32_t x = 0; x < C; ++x) square += (row[x] - mean) * (row[x] - mean);
  return {mean, 1.0f / std::sqrt(square / C + epsilon)};
}

// out = LayerNorm(state + dropout(change + bias)); `low`, if given, is out in T.
template <typename T>
void residual_norm(const float* state, const T* change, const float* bias, const Norm norm,
                   int64_t R, int32_t C, int64_t first, const Dropout drop, float* out, T* low) {
  std::vector<float> row(C);
  float* z = row.data();
  for (int64_t r = 0; r < R; ++r) {
    sum_row(state + r * C, change + r * C, bias, C, static_cast<uint32_t>((first + r) * C), drop,
            z);
    const Moments found = moments(z, C, norm.epsilon);
    const float mean = found.mean, scale = found.scale;
    float* o = out + r * C;
#pragma omp simd
    for (int32_t x = 0; x < C; ++x)
      o[x] = std::fma((z[x] - mean) * scale, norm.weight[x], norm.bias[x]);
    if (low) narrow(o, C, low + r * C);
  }
}

// d_state may be d_out. d_norm is (2, C): weight, bias; d_bias is (C); both are added to.
template <typename T>
void residual_norm_backward(const float* d_out, const float* state, const T* change,
                            const float* bias, const Norm norm, int64_t R, int32_t C, int64_t first,
                            const Dropout drop, float* d_state, T* d_change, float* d_norm,
                            float* d_bias) {
  std::vector<float> rows(2 * C);
  float *z = rows.data(), *g = z + C, *d_weight = d_norm, *d_shift = d_norm + C;
  for (int64_t r = 0; r < R; ++r) {
    const uint32_t index = static_cast<uint32_t>((first + r) * C);
    sum_row(state + r * C, change + r * C, bias, C, index, drop, z);
    const Moments found = moments(z, C, norm.epsilon);
    const float mean = found.mean, scale = found.scale;
    const float* d = d_out + r * C;
    float along_one = 0.0f, along_z = 0.0f;
#pragma omp simd reduction(+ : along_one, along_z)
    for (int32_t x = 0; x < C; ++x) {
      z[x] = (z[x] - mean) * scale;
      d_weight[x] = std::fma(d[x], z[x], d_weight[x]);
      d_shift[x] += d[x];
      g[x] = d[x] * norm.weight[x];
      along_one += g[x];
      along_z = std::fma(g[x], z[x], along_z);
    }
    along_one /= C;
    along_z /= C;
    float* ds = d_state + r * C;
    T* dc = d_change + r * C;
#pragma omp simd
    for (int32_t x = 0; x < C; ++x) ds[x] = scale * (g[x] - along_one - z[x] * along_z);
    if (drop.threshold) {
#pragma omp simd
      for (int32_t x = 0; x < C; ++x) {
        const float d_x = ds[x] * drop.factor(index + x);
        d_bias[x] += d_x;
        store(dc + x, d_x);
      }
    } else {
#pragma omp simd
      for (int32_t x = 0; x < C; ++x) {
        d_bias[x] += ds[x];
        store(dc + x, ds[x]);
      }
    }
  }
}

// out = dropout(relu(in + bias)); out may be in.
template <typename T>
void relu_dropout(const T* in, const float* bias, int64_t R, int32_t C, int64_t first,
                  const Dropout drop, T* out) {
  for (int64_t r = 0; r < R; ++r) {
    const uint32_t index = static_cast<uint32_t>((first + r) * C);
    const T* from = in + r * C;
    T* to = out + r * C;
#pragma omp simd
    for (int32_t x = 0; x < C; ++x) {
      const float value = load(from + x) + bias[x];
      store(to + x, value > 0.0f ? value * drop.factor(index + x) : 0.0f);
    }
  }
}

// d_in may be d_out; an entry that was dropped or negative reads 0 in out.
template <typename T>
void relu_dropout_backward(const T* d_out, const T* out, int64_t R, int32_t C, float scale, T* d_in,
                           float* d_bias) {
  for (int64_t r = 0; r < R; ++r) {
    const T *d = d_out + r * C, *kept = out + r * C;
    T* to = d_in + r * C;
#pragma omp simd
    for (int32_t x = 0; x < C; ++x) {
      const float d_x = load(kept + x) > 0.0f ? load(d + x) * scale : 0.0f;
      d_bias[x] += d_x;
      store(to + x, d_x);
    }
  }
}

}  // namespace openfl_flows
