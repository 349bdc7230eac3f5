#include "bindings/key_codec.h"

#include <array>
#include <cmath>
#include <cstring>

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/paths.h"

namespace theus::bindings {
namespace {

enum Tag : char { kStr = 0, kInt = 1, kBigInt = 2, kFloat = 3, kNone = 4, kBytes = 5, kTuple = 6 };

constexpr char kSpelledBool = 'b';
constexpr char kSpelledFloat = 'f';
constexpr char kSpelledMinusZero = 'z';
constexpr std::size_t kElementLengthBytes = 2;

struct Parts {
  std::string canonical;
  std::string spelling;
};

// Why a key is refused; raised by the caller, who knows the whole key and its path.
struct Refused {
  const char* reason;
};

Parts encode_parts(PyObject* key);

void append_text(PyObject* key, std::string* out) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(key, &size);
  if (text != nullptr) {
    out->append(text, static_cast<std::size_t>(size));
    return;
  }
  PyErr_Clear();  // lone surrogates: a name that came from os.fsdecode()
  Ref bytes = Ref::check(PyUnicode_AsEncodedString(key, "utf-8", "surrogatepass"));
  out->append(PyBytes_AS_STRING(bytes.get()),
              static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get())));
}

void append_int(PyObject* key, std::string* out) {
  int overflow = 0;
  long long small = PyLong_AsLongLongAndOverflow(key, &overflow);
  if (small == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (overflow == 0) {
    out->append(reinterpret_cast<const char*>(&small), sizeof small);
    out->push_back(kInt);
    return;
  }
  Ref bits = Ref::check(PyObject_CallMethod(key, "bit_length", nullptr));
  std::size_t bit_count = PyLong_AsSize_t(bits.get());
  if (bit_count > kKeyBytesMax * 8) throw Refused{"it is too long"};
  Ref order =
      Ref::check(Py_BuildValue("(ns)", static_cast<Py_ssize_t>(bit_count / 8 + 1), "little"));
  Ref names = Ref::check(Py_BuildValue("{s:O}", "signed", Py_True));
  Ref method = Ref::check(PyObject_GetAttrString(key, "to_bytes"));
  Ref bytes = Ref::check(PyObject_Call(method.get(), order.get(), names.get()));
  out->append(PyBytes_AS_STRING(bytes.get()),
              static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get())));
  out->push_back(kBigInt);
}

void append_float(double value, Parts* out) {
  if (std::isnan(value)) {
    throw Refused{"NaN equals nothing, not even itself; use None or a str instead"};
  }
  if (std::isinf(value) || value != std::floor(value)) {
    out->canonical.append(reinterpret_cast<const char*>(&value), sizeof value);
    out->canonical.push_back(kFloat);
    return;
  }
  Ref whole = Ref::check(PyLong_FromDouble(value));
  append_int(whole.get(), &out->canonical);
  out->spelling.push_back(value == 0 && std::signbit(value) ? kSpelledMinusZero : kSpelledFloat);
}

void append_tuple(PyObject* key, Parts* out) {
  bool any_spelling = false;
  std::string spellings;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); ++i) {
    Parts element = encode_parts(PyTuple_GET_ITEM(key, i));
    std::size_t size = element.canonical.size();
    if (out->canonical.size() + size > kKeyBytesMax || element.spelling.size() > 255) {
      throw Refused{"it is too long"};
    }
    out->canonical.push_back(static_cast<char>(size & 0xFF));
    out->canonical.push_back(static_cast<char>(size >> 8));
    out->canonical += element.canonical;
    any_spelling |= !element.spelling.empty();
    spellings.push_back(static_cast<char>(element.spelling.size()));
    spellings += element.spelling;
  }
  out->canonical.push_back(kTuple);
  if (any_spelling) out->spelling = spellings;
}

bool is_numpy_scalar(PyObject* key) {
  const char* name = Py_TYPE(key)->tp_name;
  return std::strncmp(name, "numpy.", 6) == 0 && std::strcmp(name, "numpy.ndarray") != 0;
}

bool is_plain_scalar(PyObject* key) {
  return PyBool_Check(key) || PyLong_CheckExact(key) || PyFloat_CheckExact(key) ||
         PyUnicode_CheckExact(key) || PyBytes_CheckExact(key);
}

const char* suggestion(PyObject* key) {
  std::string name = Py_TYPE(key)->tp_name;
  if (name == "UUID") return "use str(key) or key.bytes instead";
  if (name == "datetime.date" || name == "datetime.datetime") return "use key.isoformat() instead";
  if (name == "PosixPath" || name == "PurePosixPath") return "use str(key) instead";
  if (PyList_Check(key)) return "use tuple(key) instead";
  return "keys are None, bool, int, float, str, bytes and tuples of these";
}

Parts encode_parts(PyObject* key) {
  Parts parts;
  if (PyUnicode_Check(key)) {
    append_text(key, &parts.canonical);
    parts.canonical.push_back(kStr);
  } else if (PyLong_Check(key)) {
    append_int(key, &parts.canonical);
    if (PyBool_Check(key)) parts.spelling.push_back(kSpelledBool);
  } else if (PyFloat_Check(key)) {
    append_float(PyFloat_AS_DOUBLE(key), &parts);
  } else if (key == Py_None) {
    parts.canonical.push_back(kNone);
  } else if (PyBytes_Check(key)) {
    parts.canonical.assign(PyBytes_AS_STRING(key), static_cast<std::size_t>(PyBytes_GET_SIZE(key)));
    parts.canonical.push_back(kBytes);
  } else if (PyTuple_Check(key)) {
    if (Py_EnterRecursiveCall(" while encoding a key")) {
      PyErr_Clear();
      throw Refused{"it is nested too deeply"};
    }
    try {
      append_tuple(key, &parts);
    } catch (...) {
      Py_LeaveRecursiveCall();
      throw;
    }
    Py_LeaveRecursiveCall();
  } else if (is_numpy_scalar(key)) {
    Ref item = Ref::check(PyObject_CallMethod(key, "item", nullptr));
    if (!is_plain_scalar(item.get())) throw Refused{suggestion(key)};
    return encode_parts(item.get());
  } else {
    throw Refused{suggestion(key)};
  }
  return parts;
}

[[noreturn]] void refuse(PyObject* key, PyObject* owner, const char* reason) {
  Ref path = path_of(owner);
  if (!is_plain_scalar(key)) {
    Ref where = path_text(path.get());
    raise_at(ErrorClass::kEncode, path.get(), false, "%U (%.100s) cannot be a key in %U: %s",
             shown_key(key).get(), Py_TYPE(key)->tp_name, where.get(), reason);
  }
  Ref whole = path_below(path.get(), key);
  Ref where = path_text(path.get());
  raise_at(ErrorClass::kEncode, whole.get(), false, "a key in %U cannot be stored: %s (%.100R)",
           where.get(), reason, key);
}

// ------------------------------------------------------------------------------- decoding

[[noreturn]] void damaged() {
  raise(ErrorClass::kDecode, "a key in the shared state is damaged; restart the coordinator");
}

std::array<PyObject*, 4096> string_cache{};

// Cached by where the bytes lie and checked against what they are, so that memory that was given
// another key is noticed.
Ref decode_text(const char* data, std::size_t size) {
  std::size_t place = (reinterpret_cast<std::uintptr_t>(data) / 16 + size) % string_cache.size();
  PyObject*& cached = string_cache[place];
  Py_ssize_t cached_size = 0;
  if (cached != nullptr) {
    const char* text = PyUnicode_AsUTF8AndSize(cached, &cached_size);
    if (static_cast<std::size_t>(cached_size) == size && std::memcmp(text, data, size) == 0) {
      return Ref::borrow(cached);
    }
  }
  PyObject* text = PyUnicode_DecodeUTF8(data, static_cast<Py_ssize_t>(size), "strict");
  if (text == nullptr) {
    PyErr_Clear();
    return Ref::check(PyUnicode_DecodeUTF8(data, static_cast<Py_ssize_t>(size), "surrogatepass"));
  }
  PyUnicode_InternInPlace(&text);
  if (PyUnicode_AsUTF8AndSize(text, nullptr) == nullptr) {
    Py_DECREF(text);
    throw PythonError{};
  }
  Py_INCREF(text);
  PyObject* before = std::exchange(cached, text);
  Py_XDECREF(before);
  return Ref::steal(text);
}

Ref decode_parts(std::string_view canonical, std::string_view spelling);

Ref decode_tuple(std::string_view body, std::string_view spelling) {
  Ref list = Ref::check(PyList_New(0));
  while (!body.empty()) {
    if (body.size() < kElementLengthBytes) damaged();
    std::size_t size = static_cast<unsigned char>(body[0]) |
                       static_cast<std::size_t>(static_cast<unsigned char>(body[1])) << 8;
    body.remove_prefix(kElementLengthBytes);
    if (size > body.size()) damaged();
    std::string_view spelled;
    if (!spelling.empty()) {
      std::size_t length = static_cast<unsigned char>(spelling[0]);
      spelling.remove_prefix(1);
      if (length > spelling.size()) damaged();
      spelled = spelling.substr(0, length);
      spelling.remove_prefix(length);
    }
    Ref element = decode_parts(body.substr(0, size), spelled);
    check(PyList_Append(list.get(), element.get()));
    body.remove_prefix(size);
  }
  return Ref::check(PyList_AsTuple(list.get()));
}

Ref decode_int(std::string_view body) {
  Ref type_method =
      Ref::check(PyObject_GetAttrString(reinterpret_cast<PyObject*>(&PyLong_Type), "from_bytes"));
  Ref bytes =
      Ref::check(PyBytes_FromStringAndSize(body.data(), static_cast<Py_ssize_t>(body.size())));
  Ref arguments = Ref::check(Py_BuildValue("(Os)", bytes.get(), "little"));
  Ref names = Ref::check(Py_BuildValue("{s:O}", "signed", Py_True));
  return Ref::check(PyObject_Call(type_method.get(), arguments.get(), names.get()));
}

Ref respell(Ref number, std::string_view spelling) {
  if (spelling.empty()) return number;
  switch (spelling[0]) {
    case kSpelledBool:
      return Ref::check(PyBool_FromLong(PyObject_IsTrue(number.get())));
    case kSpelledFloat:
      return Ref::check(PyNumber_Float(number.get()));
    case kSpelledMinusZero:
      return Ref::check(PyFloat_FromDouble(-0.0));
    default:
      damaged();
  }
}

Ref decode_parts(std::string_view canonical, std::string_view spelling) {
  if (canonical.empty()) damaged();
  std::string_view body = canonical.substr(0, canonical.size() - 1);
  switch (canonical.back()) {
    case kStr:
      return decode_text(body.data(), body.size());
    case kInt: {
      if (body.size() != sizeof(long long)) damaged();
      long long value = 0;
      std::memcpy(&value, body.data(), sizeof value);
      return respell(Ref::check(PyLong_FromLongLong(value)), spelling);
    }
    case kBigInt:
      return respell(decode_int(body), spelling);
    case kFloat: {
      if (body.size() != sizeof(double)) damaged();
      double value = 0;
      std::memcpy(&value, body.data(), sizeof value);
      return Ref::check(PyFloat_FromDouble(value));
    }
    case kNone:
      return Ref::borrow(Py_None);
    case kBytes:
      return Ref::check(
          PyBytes_FromStringAndSize(body.data(), static_cast<Py_ssize_t>(body.size())));
    case kTuple:
      return decode_tuple(body, spelling);
    default:
      damaged();
  }
}

}  // namespace

EncodedKey::EncodedKey(PyObject* key, PyObject* owner) {
  if (PyUnicode_CheckExact(key)) {
    // The fast path: the name's own UTF-8, whose closing NUL is the tag.
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(key, &size);
    if (text != nullptr && static_cast<std::size_t>(size) < kKeyBytesMax) {
      auto length = static_cast<std::uint16_t>(size + 1);
      view_ = shm::KeyView(text, length, length);
      return;
    }
    if (text == nullptr) PyErr_Clear();
  }
  try {
    Parts parts = encode_parts(key);
    std::size_t compared = parts.canonical.size();
    storage_ = std::move(parts.canonical) + parts.spelling;
    if (storage_.size() > kKeyBytesMax) throw Refused{"it is too long"};
    view_ = shm::KeyView(storage_.data(), static_cast<std::uint16_t>(storage_.size()),
                         static_cast<std::uint16_t>(compared));
  } catch (const Refused& refused) {
    const char* reason = refused.reason;
    if (std::strcmp(reason, "it is too long") == 0) {
      reason = "it is longer than 960 bytes when encoded; store a hash of it instead";
    }
    refuse(key, owner, reason);
  }
}

Ref shown_key(PyObject* key) {
  PyObject* text = PyObject_Repr(key);
  if (text != nullptr) return Ref::steal(text);
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw PythonError{};
  PyErr_Clear();
  return Ref::check(PyUnicode_FromFormat("<%.100s that cannot be shown>", Py_TYPE(key)->tp_name));
}

Ref decode_key(shm::KeyView view) {
  return decode_parts(view.canonical(), view.whole().substr(view.compared));
}

}  // namespace theus::bindings
