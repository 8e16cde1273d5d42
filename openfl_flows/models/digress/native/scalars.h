// Numbers of the two types, and the entry-wise functions that vector loops are made of.

#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace openfl_flows {

using at::Tensor;
using c10::BFloat16;

inline float load(const float* p) { return *p; }
inline float load(const BFloat16* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(BFloat16* p, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t half = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  std::memcpy(p, &half, sizeof half);
}

template <typename T>
void widen_row(const T* in, int32_t number, float* out) {
#pragma omp simd
  for (int32_t x = 0; x < number; ++x) out[x] = load(in + x);
}

template <typename T>
void narrow(const float* in, int64_t number, T* out) {
#pragma omp simd
  for (int64_t x = 0; x < number; ++x) store(out + x, in[x]);
}

template <typename T>
void add(const T* in, int64_t number, float* out) {
#pragma omp simd
  for (int64_t x = 0; x < number; ++x) out[x] += load(in + x);
}

// e^x for x <= 0 (the polynomial of Cephes' expf): 2^k by the exponent's bits, the rest by the
// polynomial.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float k = std::nearbyint(x * 1.44269504f);
  float r = std::fma(k, -0.693359375f, x);
  r = std::fma(k, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r + 1.0f);
  const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// Random 32 bits of an entry (Wellons' lowbias32 finalizer): the same forward and backward.
inline uint32_t scramble(uint32_t x) {
  x ^= x >> 16;
  x *= 0x21f0aaadU;
  x ^= x >> 15;
  x *= 0x735a2d97U;
  x ^= x >> 15;
  return x;
}

// Inverted dropout: the factor of entry `index`; `threshold` is the probability times 2^32.
struct Dropout {
  uint32_t seed, offset, threshold;
  float scale;
  Dropout(double probability, int64_t random)
      : seed(static_cast<uint32_t>(random)),
        offset(static_cast<uint32_t>(random >> 32)),
        threshold(static_cast<uint32_t>(probability * 4294967296.0)),
        scale(static_cast<float>(1.0 / (1.0 - threshold / 4294967296.0))) {}
  float factor(uint32_t index) const {
    return scramble((index + offset) ^ seed) >= threshold ? scale : 0.0f;
  }
};

// Calls `work` with a value of the tensor's element type.
template <typename Work>
void dispatch(const Tensor& tensor, const Work& work) {
  if (tensor.scalar_type() == at::kFloat) {
    work(0.0f);
  } else {
    TORCH_CHECK(tensor.scalar_type() == at::kBFloat16, "expected float32 or bfloat16, got ",
                tensor.scalar_type());
    work(BFloat16());
  }
}

}  // namespace openfl_flows
