#include "bindings/codec.h"

#include <cstring>
#include <string>
#include <unordered_map>

#include "bindings/array_view.h"
#include "bindings/classify.h"
#include "bindings/errors.h"
#include "bindings/paths.h"

namespace theus::bindings {
namespace {

constexpr char kMagic = 'T';
constexpr char kFormat = 1;
constexpr std::uint64_t kAlignment = 64;  // the block itself is aligned to it, too
constexpr std::uint32_t kDimensionsMax = 64;
// Copying more takes longer than handing the GIL over and back.
constexpr std::uint64_t kUnlockAbove = 1 << 20;

struct PickleHeader {
  char magic[2];
  char format;
  char zero;
  std::uint32_t buffers;
  std::uint64_t pickle_bytes;
};
static_assert(sizeof(PickleHeader) == 16);

struct BufferPlace {
  std::uint64_t offset;
  std::uint64_t length;
};

struct ArrayHeader {
  char magic[2];
  char format;
  char zero;
  std::uint32_t dimensions;
  std::uint64_t data_offset;
  std::uint64_t data_bytes;
  std::uint32_t dtype_bytes;
  std::uint32_t flags;
};
static_assert(sizeof(ArrayHeader) == 32);
constexpr std::uint32_t kDtypePickled = 1;
constexpr std::uint32_t kFortranOrder = 2;

Imported pickle_dumps{"_pickle", "dumps"};
Imported pickle_loads{"_pickle", "loads"};
Imported dumps_with_reducers{"theus._pickling", "dumps"};
Imported array_type{"numpy", "ndarray"};
Imported make_dtype{"numpy", "dtype"};
Imported make_array{"numpy", "array"};
Imported array_class{"array", "array"};
Imported portable_memory{"theus._pickling", "Memory"};
Imported portable_elements{"theus._pickling", "Elements"};

thread_local int encoding_depth = 0;

struct EncodingMark {
  EncodingMark() { ++encoding_depth; }
  ~EncodingMark() { --encoding_depth; }
};

constexpr std::uint64_t aligned(std::uint64_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

Ref interned(const char* text) { return Ref::check(PyUnicode_InternFromString(text)); }

Ref attribute(PyObject* object, const char* name) {
  return Ref::check(PyObject_GetAttrString(object, name));
}

bool is_true(PyObject* object) {
  int result = PyObject_IsTrue(object);
  check(result);
  return result == 1;
}

// Tensors are pickled in a way of their own, but only programs that use PyTorch have tensors.
bool torch_is_imported() {
  static PyObject* name = PyUnicode_InternFromString("torch");
  if (name == nullptr) throw PythonError{};
  return PyDict_GetItemWithError(PyImport_GetModuleDict(), name) != nullptr;
}

// Whether the pickle has NumPy's objects in it, for some of which there are reducers.
bool names_numpy(PyObject* pickle) {
  return memmem(PyBytes_AS_STRING(pickle), static_cast<std::size_t>(PyBytes_GET_SIZE(pickle)),
                "numpy", 5) != nullptr;
}

// Whether it is itself of a class that will have them: pickling it twice would take long.
bool is_of_library(PyObject* value) {
  if ((Py_TYPE(value)->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0) return false;
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(value));
  const Ref module = Ref::steal(PyObject_GetAttrString(type, "__module__"));
  const char* name =
      module && PyUnicode_Check(module.get()) ? PyUnicode_AsUTF8(module.get()) : nullptr;
  PyErr_Clear();  // it has none, or not as text: then it is of no library
  return name != nullptr &&
         (std::strncmp(name, "pandas", 6) == 0 || std::strncmp(name, "numpy", 5) == 0);
}

Ref dump_plainly(PyObject* value, PyObject* buffer_callback) {
  static PyObject* names = Py_BuildValue("(ss)", "fix_imports", "buffer_callback");
  static PyObject* protocol = PyLong_FromLong(5);
  if (names == nullptr || protocol == nullptr) throw PythonError{};
  PyObject* arguments[] = {value, protocol, Py_False, buffer_callback};
  return Ref::check(PyObject_Vectorcall(pickle_dumps.get(), arguments, 2, names));
}

// The pickle of `value`; the large buffers that it leaves out go to the list `buffers`.
Ref dump(PyObject* value, PyObject* buffers) {
  const Ref append = attribute(buffers, "append");
  if (!torch_is_imported() && !is_of_library(value)) {
    Ref pickle = dump_plainly(value, append.get());
    if (!names_numpy(pickle.get())) return pickle;
    check(PyList_SetSlice(buffers, 0, PyList_GET_SIZE(buffers), nullptr));
  }
  return call(dumps_with_reducers.get(), value, append.get());
}

// The form of `dtype` that the array codec writes, and whether that is a pickle.
Ref describe_dtype(PyObject* dtype, bool* pickled) {
  Ref builtin = attribute(dtype, "isbuiltin");
  Ref text = attribute(dtype, "str");
  *pickled = PyLong_AsLong(builtin.get()) != 1;
  if (*pickled) {
    // Sized strings, date units and foreign byte orders are not "builtin" but well said by str.
    Ref kind = attribute(dtype, "kind");
    Ref again = call(make_dtype.get(), text.get());
    Ref fields = attribute(dtype, "fields");
    int equal = PyObject_RichCompareBool(again.get(), dtype, Py_EQ);
    check(equal);
    *pickled = fields.get() != Py_None || equal == 0;
  }
  return *pickled ? dump_plainly(dtype, Py_None) : Ref::check(PyUnicode_AsASCIIString(text.get()));
}

bool fits_array_codec(PyObject* value) {
  if (!is_array(value)) return false;
  Ref dtype = attribute(value, "dtype");
  Ref kind = attribute(dtype.get(), "kind");
  const char* letter = PyUnicode_AsUTF8(kind.get());
  if (letter == nullptr) throw PythonError{};
  return std::strchr("biufcmMSUV", letter[0]) != nullptr &&
         !is_true(attribute(dtype.get(), "hasobject").get());
}

[[noreturn]] void damaged(const char* what) {
  raise(ErrorClass::kDecode, "a leaf is damaged: %s", what);
}

template <class Header>
Header read_header(std::string_view leaf) {
  if (leaf.size() < sizeof(Header)) damaged("it is too short");
  Header header;
  std::memcpy(&header, leaf.data(), sizeof header);
  return header;
}

// [offset, offset + length) of the leaf; the offset is at or behind `minimum`.
std::string_view part(std::string_view leaf, std::uint64_t offset, std::uint64_t length,
                      std::uint64_t minimum) {
  if (offset < minimum || offset > leaf.size() || length > leaf.size() - offset) {
    damaged("an offset points outside of it");
  }
  return leaf.substr(offset, length);
}

struct ArrayParts {
  Ref shape;
  Ref dtype;
  Ref order;
  std::string_view data;
};

Ref load_dtype(std::string_view text, bool pickled) {
  if (pickled) {
    Ref bytes =
        Ref::check(PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
    return call(pickle_loads.get(), bytes.get());
  }
  static std::unordered_map<std::string, PyObject*> known;
  auto [place, fresh] = known.try_emplace(std::string(text), nullptr);
  if (place->second == nullptr) {
    Ref name = Ref::check(
        PyUnicode_DecodeASCII(text.data(), static_cast<Py_ssize_t>(text.size()), "strict"));
    place->second = call(make_dtype.get(), name.get()).release();
  }
  return Ref::borrow(place->second);
}

ArrayParts read_array(std::string_view leaf) {
  auto header = read_header<ArrayHeader>(leaf);
  if (header.dimensions > kDimensionsMax) damaged("it has too many dimensions");
  std::uint64_t after_shape = sizeof header + std::uint64_t{header.dimensions} * 8;
  std::string_view sizes = part(leaf, sizeof header, std::uint64_t{header.dimensions} * 8, 0);
  std::string_view dtype = part(leaf, after_shape, header.dtype_bytes, after_shape);
  ArrayParts parts;
  parts.data = part(leaf, header.data_offset, header.data_bytes, after_shape + header.dtype_bytes);
  parts.dtype = load_dtype(dtype, (header.flags & kDtypePickled) != 0);
  parts.order = interned((header.flags & kFortranOrder) != 0 ? "F" : "C");
  parts.shape = Ref::check(PyTuple_New(header.dimensions));
  for (std::uint32_t i = 0; i < header.dimensions; ++i) {
    std::uint64_t size = 0;
    std::memcpy(&size, sizes.data() + std::size_t{i} * 8, sizeof size);
    PyTuple_SET_ITEM(parts.shape.get(), i, Ref::check(PyLong_FromUnsignedLongLong(size)).release());
  }
  return parts;
}

Ref decode_pickle(std::string_view leaf, PyObject* keeper, PyObject* path) {
  auto header = read_header<PickleHeader>(leaf);
  std::uint64_t table_bytes = std::uint64_t{header.buffers} * sizeof(BufferPlace);
  std::string_view table = part(leaf, sizeof header, table_bytes, 0);
  std::uint64_t after_table = sizeof header + table_bytes;
  std::string_view pickle = part(leaf, after_table, header.pickle_bytes, after_table);
  Ref buffers = Ref::check(PyTuple_New(header.buffers));
  Ref whole;
  if (keeper != nullptr && header.buffers != 0) {
    whole = Ref::check(PyMemoryView_FromObject(keeper));
  }
  for (std::uint32_t i = 0; i < header.buffers; ++i) {
    BufferPlace place;
    std::memcpy(&place, table.data() + i * sizeof place, sizeof place);
    std::string_view bytes = part(leaf, place.offset, place.length, after_table);
    Ref buffer;
    if (whole) {
      auto start = static_cast<Py_ssize_t>(place.offset);
      buffer = Ref::check(
          PySequence_GetSlice(whole.get(), start, start + static_cast<Py_ssize_t>(place.length)));
    } else {
      buffer = Ref::check(
          PyByteArray_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
    }
    PyTuple_SET_ITEM(buffers.get(), i, buffer.release());
  }
  // A copy, as unpickling may run code that lets another thread close the snapshot.
  Ref bytes =
      Ref::check(PyBytes_FromStringAndSize(pickle.data(), static_cast<Py_ssize_t>(pickle.size())));
  static PyObject* names = Py_BuildValue("(ss)", "fix_imports", "buffers");
  if (names == nullptr) throw PythonError{};
  PyObject* arguments[] = {bytes.get(), Py_False, buffers.get()};
  PyObject* result = PyObject_Vectorcall(pickle_loads.get(), arguments, 1, names);
  if (result == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) throw PythonError{};
    Ref where = path_text(path);
    raise_at(ErrorClass::kDecode, path, true,
             "%U cannot be decoded here; make the classes it was made of importable in this "
             "process (the cause says which is missing), or replace it",
             where.get());
  }
  return Ref::steal(result);
}

}  // namespace

bool encoding_now() { return encoding_depth > 0; }

LeafEncoding::LeafEncoding(PyObject* value) {
  EncodingMark mark;
  try {
    if (fits_array_codec(value)) {
      measure_array(value);
    } else if (PyMemoryView_Check(value)) {
      measure_pickle(call(portable_memory.get(), value).get());
    } else if (reinterpret_cast<PyObject*>(Py_TYPE(value)) == array_class.get()) {
      measure_pickle(call(portable_elements.get(), value).get());
    } else {
      measure_pickle(value);
    }
  } catch (...) {
    for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
    throw;
  }
}

LeafEncoding::LeafEncoding(LeafEncoding&& other) noexcept
    : array_(other.array_),
      head_(std::move(other.head_)),
      array_flags_(other.array_flags_),
      dimensions_(std::move(other.dimensions_)),
      buffers_(std::move(other.buffers_)),
      size_(other.size_) {
  other.buffers_.clear();
}

LeafEncoding::~LeafEncoding() {
  for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
}

void LeafEncoding::measure_array(PyObject* array) {
  array_ = true;
  Ref shape = attribute(array, "shape");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(shape.get()); ++i) {
    dimensions_.push_back(PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(shape.get(), i)));
  }
  Ref flags = attribute(array, "flags");
  Ref source = Ref::borrow(array);
  bool pickled = false;
  head_ = describe_dtype(attribute(array, "dtype").get(), &pickled);
  if (pickled) array_flags_ |= kDtypePickled;
  bool in_c_order = is_true(attribute(flags.get(), "c_contiguous").get());
  if (!in_c_order && is_true(attribute(flags.get(), "f_contiguous").get())) {
    array_flags_ |= kFortranOrder;
    source = attribute(array, "T");  // the same bytes, contiguous in C order
  } else if (!in_c_order) {
    // Strided: its elements are gathered in C order first.
    static PyObject* names = Py_BuildValue("(s)", "order");
    Ref order = interned("C");
    PyObject* arguments[] = {array, order.get()};
    source = Ref::check(PyObject_Vectorcall(make_array.get(), arguments, 1, names));
  }
  Py_buffer buffer;
  check(PyObject_GetBuffer(source.get(), &buffer, PyBUF_SIMPLE));
  buffers_.push_back(buffer);
  std::uint64_t head = sizeof(ArrayHeader) + dimensions_.size() * 8 +
                       static_cast<std::uint64_t>(PyBytes_GET_SIZE(head_.get()));
  size_ = aligned(head) + static_cast<std::uint64_t>(buffer.len);
}

void LeafEncoding::measure_pickle(PyObject* value) {
  Ref list = Ref::check(PyList_New(0));
  head_ = dump(value, list.get());
  Py_ssize_t count = PyList_GET_SIZE(list.get());
  buffers_.reserve(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    Ref raw = Ref::check(PyObject_CallMethod(PyList_GET_ITEM(list.get(), i), "raw", nullptr));
    Py_buffer buffer;
    check(PyObject_GetBuffer(raw.get(), &buffer, PyBUF_SIMPLE));
    buffers_.push_back(buffer);
  }
  size_ = sizeof(PickleHeader) + buffers_.size() * sizeof(BufferPlace) +
          static_cast<std::uint64_t>(PyBytes_GET_SIZE(head_.get()));
  for (const Py_buffer& buffer : buffers_) {
    size_ = aligned(size_) + static_cast<std::uint64_t>(buffer.len);
  }
}

std::string_view LeafEncoding::pickled() const {
  return {PyBytes_AS_STRING(head_.get()), static_cast<std::size_t>(PyBytes_GET_SIZE(head_.get()))};
}

void LeafEncoding::write(char* to) const {
  std::string_view head = pickled();
  char* next = to;
  auto put = [&next](const void* bytes, std::size_t size) {
    if (size != 0) std::memcpy(next, bytes, size);
    next += size;
  };
  if (array_) {
    std::uint64_t before = sizeof(ArrayHeader) + dimensions_.size() * 8 + head.size();
    ArrayHeader header = {{kMagic, 'A'},
                          kFormat,
                          0,
                          static_cast<std::uint32_t>(dimensions_.size()),
                          aligned(before),
                          static_cast<std::uint64_t>(buffers_[0].len),
                          static_cast<std::uint32_t>(head.size()),
                          array_flags_};
    put(&header, sizeof header);
    put(dimensions_.data(), dimensions_.size() * 8);
    put(head.data(), head.size());
  } else {
    PickleHeader header = {
        {kMagic, 'P'}, kFormat, 0, static_cast<std::uint32_t>(buffers_.size()), head.size()};
    put(&header, sizeof header);
    std::uint64_t end = sizeof header + buffers_.size() * sizeof(BufferPlace) + head.size();
    for (const Py_buffer& buffer : buffers_) {
      BufferPlace place = {aligned(end), static_cast<std::uint64_t>(buffer.len)};
      put(&place, sizeof place);
      end = place.offset + place.length;
    }
    put(head.data(), head.size());
  }
  for (const Py_buffer& buffer : buffers_) {
    // The gap is filled: what lay in a recycled block before is nobody's business.
    std::uint64_t gap =
        aligned(static_cast<std::uint64_t>(next - to)) - static_cast<std::uint64_t>(next - to);
    std::memset(next, 0, gap);
    next += gap;
    put(buffer.buf, static_cast<std::size_t>(buffer.len));
  }
}

void LeafEncoding::write(char* to, Attached& attached) const {
  if (size_ < kUnlockAbove) {
    write(to);
    return;
  }
  // Our references keep the buffers; that their bytes stay is up to whoever may write to them.
  void* token = attached.before();
  write(to);
  attached.after(token, /*may_throw=*/false);
}

bool LeafEncoding::same(const LeafEncoding& other) const {
  if (array_ != other.array_ || array_flags_ != other.array_flags_ || size_ != other.size_ ||
      dimensions_ != other.dimensions_ || pickled() != other.pickled() ||
      buffers_.size() != other.buffers_.size()) {
    return false;
  }
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    if (buffers_[i].len != other.buffers_[i].len) return false;
    auto size = static_cast<std::size_t>(buffers_[i].len);
    const void* origin = unchanged_original(buffers_[i].buf, size);
    if (origin != nullptr && origin == unchanged_original(other.buffers_[i].buf, size)) continue;
    if (size != 0 && std::memcmp(buffers_[i].buf, other.buffers_[i].buf, size) != 0) return false;
  }
  return true;
}

Ref LeafEncoding::fingerprint() const {
  std::string text(pickled());
  for (const Py_buffer& buffer : buffers_) {
    auto size = static_cast<std::size_t>(buffer.len);
    text.append(reinterpret_cast<const char*>(&size), sizeof size);
    const void* fixed = buffer.readonly != 0 ? buffer.buf : unchanged_original(buffer.buf, size);
    text.push_back(fixed != nullptr ? 'a' : 'b');
    if (fixed != nullptr) {
      text.append(reinterpret_cast<const char*>(&fixed), sizeof fixed);
    } else {
      text.append(static_cast<const char*>(buffer.buf), size);
    }
  }
  return Ref::check(PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

LeafForm leaf_form(std::string_view leaf) {
  if (leaf.size() >= 4 && leaf[0] == kMagic && leaf[2] == kFormat && leaf[3] == 0) {
    if (leaf[1] == 'P') return LeafForm::kPickle;
    if (leaf[1] == 'A') return LeafForm::kArray;
  }
  damaged("it is of no known form; was it written by another version?");
}

bool has_buffers(std::string_view leaf) {
  if (leaf_form(leaf) == LeafForm::kArray) return true;
  return read_header<PickleHeader>(leaf).buffers != 0;
}

Ref decode_shared(std::string_view leaf, PyObject* keeper, PyObject* path) {
  if (leaf_form(leaf) == LeafForm::kPickle) return decode_pickle(leaf, keeper, path);
  ArrayParts parts = read_array(leaf);
  Ref offset = Ref::check(PyLong_FromSsize_t(parts.data.data() - leaf.data()));
  return call(array_type.get(), parts.shape.get(), parts.dtype.get(), keeper, offset.get(), Py_None,
              parts.order.get());
}

Ref decode_private(std::string_view leaf, PyObject* path) {
  if (leaf_form(leaf) == LeafForm::kPickle) return decode_pickle(leaf, nullptr, path);
  ArrayParts parts = read_array(leaf);
  Ref offset = Ref::check(PyLong_FromLong(0));
  Ref array = call(array_type.get(), parts.shape.get(), parts.dtype.get(), Py_None, offset.get(),
                   Py_None, parts.order.get());
  Py_buffer buffer;
  check(PyObject_GetBuffer(array.get(), &buffer, PyBUF_WRITABLE | PyBUF_ANY_CONTIGUOUS));
  bool fits = static_cast<std::size_t>(buffer.len) == parts.data.size();
  if (fits && buffer.len != 0) std::memcpy(buffer.buf, parts.data.data(), parts.data.size());
  PyBuffer_Release(&buffer);
  if (!fits) damaged("its shape and its length differ");
  return array;
}

}  // namespace theus::bindings
