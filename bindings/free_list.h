// Free list of objects of one heap type, for types that every transaction makes and drops.
#pragma once

#include <array>
#include <cstring>

#include "bindings/ref.h"

namespace theus::bindings {

// `Object` is trivial memory behind PyObject_HEAD, of a type with garbage collection and no items.
// Thread safety: the GIL.
template <class Object, std::size_t kSize = 64>
class FreeList {
 public:
  // A zeroed object that is not yet tracked. Throws PythonError.
  Object* take(PyTypeObject* type) {
    if (count_ == 0) {
      auto* fresh = PyObject_GC_New(Object, type);
      if (fresh == nullptr) throw PythonError{};
      clear_fields(fresh);
      return fresh;
    }
    Object* object = objects_[--count_];
    clear_fields(object);
    PyObject_Init(reinterpret_cast<PyObject*>(object), type);
    return object;
  }

  // From tp_dealloc, after untracking and dropping what the object held.
  void give(Object* object) {
    PyTypeObject* type = Py_TYPE(object);
    if (count_ < kSize) {
      objects_[count_++] = object;
    } else {
      PyObject_GC_Del(object);
    }
    Py_DECREF(type);
  }

 private:
  static void clear_fields(Object* object) {
    std::memset(reinterpret_cast<char*>(object) + sizeof(PyObject), 0,
                sizeof(Object) - sizeof(PyObject));
  }

  std::array<Object*, kSize> objects_;
  std::size_t count_ = 0;
};

}  // namespace theus::bindings
