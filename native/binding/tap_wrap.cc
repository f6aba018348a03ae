#include "tap_wrap.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "../sys/tap.h"
#include "args.h"
#include "js_queue.h"
#include "sys_error.h"

namespace vmm {
namespace {

std::string ToText(Napi::Value value, const char* name) {
  if (!value.IsString()) throw Napi::TypeError::New(value.Env(), std::string(name) + " is no text");
  return value.As<Napi::String>().Utf8Value();
}

std::string MacText(const ether_addr& mac) {
  const uint8_t* octet = mac.ether_addr_octet;
  char text[sizeof("12:34:56:78:90:ab")];
  static_cast<void>(std::snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", octet[0],
                                  octet[1], octet[2], octet[3], octet[4], octet[5]));
  return text;
}

Napi::Value Open(const Napi::CallbackInfo& info) {
  const Napi::Object options = ToObject(info[0], "options");
  Tap tap;
  ThrowIfFailed(info.Env(),
                OpenTap(ToText(options.Get("name"), "name"),
                        ToUint<uint16_t>(options.Get("queuePairs"), "queuePairs"), &tap));
  const Napi::Array fds = Napi::Array::New(info.Env());
  for (Fd& file : tap.files) fds.Set(fds.Length(), file.Release());
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("name", tap.name);
  object.Set("fds", fds);
  object.Set("made", tap.made);
  return object;
}

Napi::Value Name(const Napi::CallbackInfo& info) {
  std::string name;
  ThrowIfFailed(info.Env(), NameOfTap(ToFd(info[0], "fd"), &name));
  return Napi::String::New(info.Env(), name);
}

Napi::Value IsOne(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), IsOneFile(ToFd(info[0], "fd"), ToFd(info[1], "other")));
}

Napi::Value Adopt(const Napi::CallbackInfo& info) {
  Fd file;
  ThrowIfFailed(info.Env(), AdoptTap(ToFd(info[0], "fd"), &file));
  return Napi::Number::New(info.Env(), file.Release());
}

Napi::Value Facts(const Napi::CallbackInfo& info) {
  TapFacts facts;
  ThrowIfFailed(info.Env(), AskTap(ToFd(info[0], "fd"), &facts));
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("name", facts.name);
  object.Set("mtu", facts.mtu);
  object.Set("mac", MacText(facts.mac));
  return object;
}

Napi::Value ProbeUso(const Napi::CallbackInfo& info) {
  bool takes = false;
  ThrowIfFailed(info.Env(), ProbeTapUso(ToFd(info[0], "fd"), &takes));
  return Napi::Boolean::New(info.Env(), takes);
}

void SetMac(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), SetTapMac(ToText(info[0], "name"), ToText(info[1], "mac")));
}

void SetMtu(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), SetTapMtu(ToText(info[0], "name"), ToUint<uint32_t>(info[1], "mtu")));
}

void SetAddress(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), SetTapAddress(ToText(info[0], "name"), ToText(info[1], "ip"),
                                          ToText(info[2], "mask")));
}

void Up(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), SetTapUp(ToText(info[0], "name")));
}

void SetOffloads(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(),
                SetTapOffloads(ToFd(info[0], "fd"), ToUint<uint32_t>(info[1], "offloads")));
}

void SetQueue(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), SetTapQueue(ToFd(info[0], "fd"), info[1].ToBoolean().Value()));
}

/// On a worker: an interface that goes with its last file takes tens of milliseconds to go.
Napi::Value Close(const Napi::CallbackInfo& info) {
  const Napi::Array from = ToArray(info[0], "fds");
  const auto files = std::make_shared<std::vector<Fd>>();
  for (uint32_t i = 0; i < from.Length(); ++i) files->emplace_back(ToFd(from.Get(i), "fds"));
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [files] {
    files->clear();
    return Status{};
  });
}

}  // namespace

Napi::Object DefineTaps(Napi::Env env) {
  Napi::Object taps = Napi::Object::New(env);
  taps.Set("open", Napi::Function::New<Open>(env));
  taps.Set("name", Napi::Function::New<Name>(env));
  taps.Set("isOneFile", Napi::Function::New<IsOne>(env));
  taps.Set("adopt", Napi::Function::New<Adopt>(env));
  taps.Set("facts", Napi::Function::New<Facts>(env));
  taps.Set("probeUso", Napi::Function::New<ProbeUso>(env));
  taps.Set("setMac", Napi::Function::New<SetMac>(env));
  taps.Set("setMtu", Napi::Function::New<SetMtu>(env));
  taps.Set("setAddress", Napi::Function::New<SetAddress>(env));
  taps.Set("up", Napi::Function::New<Up>(env));
  taps.Set("setOffloads", Napi::Function::New<SetOffloads>(env));
  taps.Set("setQueue", Napi::Function::New<SetQueue>(env));
  taps.Set("close", Napi::Function::New<Close>(env));
  return taps;
}

}  // namespace vmm
