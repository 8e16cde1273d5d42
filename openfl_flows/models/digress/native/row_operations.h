// The row operations by themselves, for node and graph states, whose products PyTorch does well.

#pragma once

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <tuple>

#include "rows.h"

namespace openfl_flows {

inline std::tuple<int64_t, int32_t> rows_of(const Tensor& t) {
  TORCH_CHECK(t.is_contiguous(), "expected contiguous tensors");
  return {t.numel() / t.size(-1), static_cast<int32_t>(t.size(-1))};
}

inline Tensor residual_norm_op(const Tensor& state, const Tensor& change, const Tensor& weight,
                               const Tensor& bias, double epsilon, double probability,
                               int64_t random) {
  const auto [R, C] = rows_of(state);
  const std::vector<float> none(C);
  const Norm norm{weight.const_data_ptr<float>(), bias.const_data_ptr<float>(),
                  static_cast<float>(epsilon)};
  Tensor out = at::empty_like(state);
  dispatch(change, [&, R = R, C = C](auto zero) {
    using T = decltype(zero);
    residual_norm<T>(state.const_data_ptr<float>(), change.const_data_ptr<T>(), none.data(), norm,
                     R, C, 0, Dropout(probability, random), out.data_ptr<float>(), nullptr);
  });
  return out;
}

// Gradients of state, change, weight and bias.
inline std::vector<Tensor> residual_norm_backward_op(const Tensor& d_out, const Tensor& state,
                                                     const Tensor& change, const Tensor& weight,
                                                     double epsilon, double probability,
                                                     int64_t random) {
  const auto [R, C] = rows_of(state);
  const std::vector<float> none(C);
  std::vector<float> ignored(C);
  const Norm norm{weight.const_data_ptr<float>(), nullptr, static_cast<float>(epsilon)};
  Tensor d_state = at::empty_like(state), d_change = at::empty_like(change);
  Tensor d_norm = at::zeros({2, C}, weight.options());
  dispatch(change, [&, R = R, C = C](auto zero) {
    using T = decltype(zero);
    residual_norm_backward(d_out.const_data_ptr<float>(), state.const_data_ptr<float>(),
                           change.const_data_ptr<T>(), none.data(), norm, R, C, 0,
                           Dropout(probability, random), d_state.data_ptr<float>(),
                           d_change.data_ptr<T>(), d_norm.data_ptr<float>(), ignored.data());
  });
  return {d_state, d_change, d_norm[0], d_norm[1]};
}

inline Tensor relu_dropout_op(const Tensor& in, double probability, int64_t random) {
  const auto [R, C] = rows_of(in);
  const std::vector<float> none(C);
  Tensor out = at::empty_like(in);
  dispatch(in, [&, R = R, C = C](auto zero) {
    using T = decltype(zero);
    relu_dropout(in.const_data_ptr<T>(), none.data(), R, C, 0, Dropout(probability, random),
                 out.data_ptr<T>());
  });
  return out;
}

inline Tensor relu_dropout_backward_op(const Tensor& d_out, const Tensor& out, double probability) {
  const auto [R, C] = rows_of(out);
  std::vector<float> ignored(C);
  Tensor d_in = at::empty_like(out);
  dispatch(out, [&, R = R, C = C](auto zero) {
    using T = decltype(zero);
    relu_dropout_backward(d_out.const_data_ptr<T>(), out.const_data_ptr<T>(), R, C,
                          Dropout(probability, 0).scale, d_in.data_ptr<T>(), ignored.data());
  });
  return d_in;
}

}  // namespace openfl_flows
