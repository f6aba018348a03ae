#pragma once
#include <napi.h>

#include <cmath>
#include <cstdint>
#include <string>

namespace vmm {

/// Arguments are validated in TypeScript. Here only that is checked which would be undefined
/// behaviour: a value of the wrong type or range throws TypeError with its name.
inline uint64_t ToU64(Napi::Value value, const char* name) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 9007199254740991.0) || number != std::floor(number))
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is no unsigned integer");
  return static_cast<uint64_t>(number);
}

/// The same of a BigInt, for what may have all of 64 bits, or of a number.
inline uint64_t ToAddress(Napi::Value value, const char* name) {
  if (!value.IsBigInt()) return ToU64(value, name);
  bool lossless = false;
  const uint64_t wide = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless)
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is no unsigned integer");
  return wide;
}

template <class T>
T ToUint(Napi::Value value, const char* name) {
  const uint64_t wide = ToU64(value, name);
  if (wide > static_cast<T>(~T{0}))
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is out of range");
  return static_cast<T>(wide);
}

inline int ToFd(Napi::Value value, const char* name) {
  if (!value.IsNumber()) throw Napi::TypeError::New(value.Env(), std::string(name) + " is no fd");
  return value.As<Napi::Number>().Int32Value();
}

inline Napi::Object ToObject(Napi::Value value, const char* name) {
  if (!value.IsObject())
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is no object");
  return value.As<Napi::Object>();
}

inline Napi::Array ToArray(Napi::Value value, const char* name) {
  if (!value.IsArray()) throw Napi::TypeError::New(value.Env(), std::string(name) + " is no array");
  return value.As<Napi::Array>();
}

inline Napi::Function ToFunction(Napi::Value value, const char* name) {
  if (!value.IsFunction())
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is no function");
  return value.As<Napi::Function>();
}

/// Bytes of a Uint8Array, valid until control returns to JS.
inline Napi::Uint8Array ToBytes(Napi::Value value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is no Uint8Array");
  return value.As<Napi::Uint8Array>();
}

/// Pairs of numbers, valid until control returns to JS.
inline Napi::Float64Array ToRanges(Napi::Value value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
    throw Napi::TypeError::New(value.Env(), std::string(name) + " is no Float64Array");
  return value.As<Napi::Float64Array>();
}

}  // namespace vmm
