// A driver without a GPU: what hyperkit._ext.nvrtc calls, ending in the emulator. Built into one library with
// emulated.cpp. A cubin is looked into for the kernel's name, so that a missing export is found.
#include <cstring>
#include <string>
#include <vector>

#define FAKE extern "C" __attribute__((visibility("default")))
extern "C" int emu_launch(const char*, int, int, int, void**, unsigned);

namespace {
const int SHARED_LIMIT = 160 * 1024;
std::vector<std::string> names;
void* current = nullptr;
int allowed = 48 * 1024;
}  // namespace

FAKE int cuInit(unsigned) { return 0; }
FAKE int cuDeviceGet(int* device, int) { return *device = 0; }
FAKE int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &names;
  return 0;
}
FAKE int cuCtxGetCurrent(void** context) {
  *context = current;
  return 0;
}
FAKE int cuCtxSetCurrent(void* context) {
  current = context;
  return 0;
}
FAKE int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 9 : (attribute == 76 ? 0 : (attribute == 97 ? SHARED_LIMIT : 0));
  return 0;
}
FAKE int cuModuleLoadData(void** module, const void* data) {
  if (current == nullptr) return 201;                    // CUDA_ERROR_INVALID_CONTEXT
  if (std::memcmp(data, "\177ELF", 4) != 0) return 200;  // CUDA_ERROR_INVALID_IMAGE
  *module = (void*)data;
  return 0;
}
FAKE int cuModuleGetFunction(void** function, void* module, const char* name) {
  // The symbol's name stands in the cubin's string table; 1 MiB covers it.
  std::string wanted = std::string(".text.") + name;
  const char* end = (const char*)module + 64;
  unsigned long long sections;
  std::memcpy(&sections, (const char*)module + 40, 8);  // e_shoff: the headers come last
  end = (const char*)module + sections;
  for (const char* p = (const char*)module; p + wanted.size() < end; ++p)
    if (std::memcmp(p, wanted.c_str(), wanted.size() + 1) == 0) {
      names.push_back(name);
      *function = (void*)(names.size());
      return 0;
    }
  return 500;  // CUDA_ERROR_NOT_FOUND
}
FAKE int cuFuncSetAttribute(void*, int attribute, int value) {
  if (attribute != 8 || value > SHARED_LIMIT) return 1;
  allowed = value;
  return 0;
}
FAKE int cuLaunchKernel(void* function, unsigned gx, unsigned, unsigned, unsigned bx, unsigned, unsigned,
                        unsigned shared, void*, void** arguments, void**) {
  if (current == nullptr) return 201;
  if ((int)shared > allowed) return 1;
  return emu_launch(names[(size_t)function - 1].c_str(), gx, bx, shared, arguments, 2) ? 719 : 0;
}
