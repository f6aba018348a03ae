{
  "targets": [
    {
      "target_name": "cloud_hypervisor",
      "sources": [
        "<!@(ls native/base/*.cc native/memory/*.cc native/kvm/*.cc native/serial/*.cc native/virtio/*.cc native/disk/*.cc native/engines/*.cc native/sys/*.cc native/binding/*.cc)"
      ],
      "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except"],
      "defines": ["NAPI_VERSION=9", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-O2", "-g1", "-Wall", "-Wextra", "-fstack-protector-strong"]
    }
  ]
}
