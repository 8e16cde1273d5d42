// Mean, minimum, maximum and standard deviation over the real nodes, or over the pairs of distinct
// real nodes: (B, N, C) or (B, N, N, C) to (B, 4 C).

#pragma once

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>

#include "row_operations.h"

namespace openfl_flows {

constexpr float kVarianceFloor = 1e-6f;

// Calls `work` with every real entry's C numbers, by their offset.
template <typename Work>
void for_real(int64_t n, int64_t N, bool pairs, int64_t C, const Work& work) {
  for (int64_t i = 0; i < n; ++i) {
    if (!pairs) work(i * C);
    for (int64_t j = 0; pairs && j < n; ++j)
      if (i != j) work((i * N + j) * C);
  }
}

inline Tensor pool(const Tensor& states, const Tensor& sizes) {
  const auto [R, C] = rows_of(states);
  const int64_t B = states.size(0), N = states.size(1), stride = states.numel() / B;
  const bool pairs = states.dim() == 4;
  Tensor out = at::zeros({B, 4 * C}, states.options());
  for (int64_t b = 0; b < B; ++b) {
    const int32_t width = C;
    const int64_t n = sizes.const_data_ptr<int64_t>()[b], number = pairs ? n * (n - 1) : n;
    const float* state = states.const_data_ptr<float>() + b * stride;
    float *mean = out.data_ptr<float>() + b * 4 * C, *low = mean + C, *high = low + C,
          *deviation = high + C;
    if (number) std::fill_n(low, C, std::numeric_limits<float>::infinity());
    if (number) std::fill_n(high, C, -std::numeric_limits<float>::infinity());
    for_real(n, N, pairs, C, [&](int64_t at) {
#pragma omp simd
      for (int32_t x = 0; x < width; ++x) {
        const float value = state[at + x];
        mean[x] += value;
        low[x] = value < low[x] ? value : low[x];
        high[x] = value > high[x] ? value : high[x];
      }
    });
    for (int32_t x = 0; x < width; ++x) mean[x] /= std::max<int64_t>(1, number);
    for_real(n, N, pairs, C, [&](int64_t at) {
#pragma omp simd
      for (int32_t x = 0; x < width; ++x)
        deviation[x] += (state[at + x] - mean[x]) * (state[at + x] - mean[x]);
    });
    for (int32_t x = 0; x < width; ++x)
      deviation[x] = std::sqrt(deviation[x] / std::max<int64_t>(1, number) + kVarianceFloor);
  }
  return out;
}

// Entries that share the minimum or maximum share its gradient, as in PyTorch.
inline Tensor pool_backward(const Tensor& d_out, const Tensor& states, const Tensor& sizes,
                            const Tensor& out) {
  const auto [R, C] = rows_of(states);
  const int64_t B = states.size(0), N = states.size(1), stride = states.numel() / B;
  const bool pairs = states.dim() == 4;
  Tensor d_states = at::zeros_like(states);
  std::vector<float> row(4 * C);
  float *d_mean = row.data(), *d_low = d_mean + C, *d_high = d_low + C, *d_deviation = d_high + C;
  for (int64_t b = 0; b < B; ++b) {
    const int32_t width = C;
    const int64_t n = sizes.const_data_ptr<int64_t>()[b], number = pairs ? n * (n - 1) : n;
    const float* state = states.const_data_ptr<float>() + b * stride;
    const float *d = d_out.const_data_ptr<float>() + b * 4 * C,
                *mean = out.const_data_ptr<float>() + b * 4 * C;
    const float *low = mean + C, *high = low + C, *deviation = high + C;
    float* to = d_states.data_ptr<float>() + b * stride;
    std::fill_n(d_low, 2 * C, 0.0f);
    for_real(n, N, pairs, C, [&](int64_t at) {
#pragma omp simd
      for (int32_t x = 0; x < width; ++x) {
        d_low[x] += state[at + x] == low[x] ? 1.0f : 0.0f;
        d_high[x] += state[at + x] == high[x] ? 1.0f : 0.0f;
      }
    });
    const float share = 1.0f / std::max<int64_t>(1, number);
    for (int32_t x = 0; x < width; ++x) {
      d_mean[x] = d[x] * share;
      d_low[x] = d[C + x] / d_low[x];
      d_high[x] = d[2 * C + x] / d_high[x];
      d_deviation[x] = d[3 * C + x] * share / deviation[x];
    }
    for_real(n, N, pairs, C, [&](int64_t at) {
#pragma omp simd
      for (int32_t x = 0; x < width; ++x) {
        const float value = state[at + x];
        to[at + x] = d_mean[x] + d_deviation[x] * (value - mean[x]) +
                     (value == low[x] ? d_low[x] : 0.0f) + (value == high[x] ? d_high[x] : 0.0f);
      }
    });
  }
  return d_states;
}

}  // namespace openfl_flows
