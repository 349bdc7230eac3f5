#include "bindings/merging.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "bindings/codec.h"
#include "bindings/errors.h"
#include "bindings/leaf.h"
#include "bindings/paths.h"
#include "bindings/values.h"

namespace theus::bindings {
namespace {

using Kind = worker::Value::Kind;

Imported operate_on_plain{"theus._operations", "operate_again"};
Imported absent{"theus._operations", "ABSENT"};
Imported resolve_conflict{"theus._operations", "resolve"};

std::optional<shm::Number> number_of(PyObject* object) {
  if (PyFloat_CheckExact(object)) return shm::Number::of(PyFloat_AS_DOUBLE(object));
  if (!PyLong_CheckExact(object)) return std::nullopt;
  int overflow = 0;
  const long long integer = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (integer == -1 && PyErr_Occurred() != nullptr) throw PythonError{};
  if (overflow != 0) return std::nullopt;
  return shm::Number::of(static_cast<std::int64_t>(integer));
}

const char* name_of(shm::Fold fold) {
  return fold == shm::Fold::kAdd ? "add" : fold == shm::Fold::kMaximum ? "maximum" : "minimum";
}

// A list of (name, operand).
void append_operation(const Ref& list, const char* name, PyObject* operand) {
  Ref pair = Ref::check(Py_BuildValue("(sO)", name, operand));
  check(PyList_Append(list.get(), pair.get()));
}

// What a fold is in Python's terms; null if the entry has none.
Ref operations_of_fold(const worker::Entry* entry) {
  if (entry->fold == shm::Fold::kNone) return Ref();
  const shm::Number& number = entry->operand;
  Ref operand = Ref::check(number.is_real ? PyFloat_FromDouble(number.real)
                                          : PyLong_FromLongLong(number.integer));
  Ref list = Ref::check(PyList_New(0));
  append_operation(list, name_of(entry->fold), operand.get());
  return list;
}

std::vector<NotedOperations>& noted(ContextObject* context) { return context->holder->operations; }

// Takes what is noted for the entry out of the notes; null: nothing.
Ref take_operations(ContextObject* context, const worker::Entry* entry) {
  auto& all = noted(context);
  const auto at = std::find_if(all.begin(), all.end(),
                               [entry](const auto& each) { return each.entry == entry; });
  if (at == all.end()) return Ref();
  Ref list = std::move(at->operations);
  all.erase(at);
  return list;
}

bool was_changed(const worker::Entry* entry) {
  return entry->written || (entry->user != nullptr && static_cast<LeafObject*>(entry->user)->dirty);
}

}  // namespace

void forget_operations(ContextObject* context, const worker::Entry* entry) {
  if (!noted(context).empty()) take_operations(context, entry);
}

void operate(const Operation& operation, const Node& node, PyObject* key, PyObject* path,
             PyObject* operand) {
  check_writable(node, key);
  EncodedKey encoded(key, node.owner);
  worker::Transaction& transaction = transaction_of(node.context);
  worker::Entry* entry = transaction.entry(node.mapping, encoded.view());
  Ref operations = take_operations(node.context, entry);
  if (!operations && operation.fold != shm::Fold::kNone && entry->user == nullptr) {
    const auto number = number_of(operand);
    const bool logged = entry->written;
    if (number && transaction.fold(entry, operation.fold, *number)) {
      if (!logged) node.context->holder->log.push_back({entry, nullptr});
      return;
    }
  }
  if (!operations) operations = operations_of_fold(entry);
  const bool read = entry->read, presence_read = entry->presence_read;
  const bool again = !read && (operations || !was_changed(entry));
  // As a program would do it.
  auto* self = reinterpret_cast<PyObject*>(node.context);
  Ref kept = call(operation.function->get(), self, path, operand);
  if (!again || !was_changed(entry)) return;
  if (!operations) operations = Ref::check(PyList_New(0));
  append_operation(operations, operation.name, kept.get());
  // Running Python may have noted something for the same entry; then it did not begin from what we
  // have seen.
  if (take_operations(node.context, entry)) return;
  noted(node.context).push_back({entry, std::move(operations), Ref()});
  entry->read = read;
  entry->presence_read = presence_read;
}

Ref ContextMerger::operate_again(const worker::Entry* entry, const worker::Value& newest,
                                 PyObject* path) {
  Ref operations;
  for (const NotedOperations& each : noted(context_)) {
    if (each.entry == entry && each.operations) operations = Ref::borrow(each.operations.get());
  }
  if (!operations) {
    operations = operations_of_fold(entry);
    if (!operations) return Ref();
    // From here on it is no fold any more; and others may be faster again.
    noted(context_).push_back({entry, Ref::borrow(operations.get()), Ref()});
  }
  Ref value = newest.kind == Kind::kAbsent ? Ref::borrow(absent.get())
              : newest.kind == Kind::kLeaf ? decode_private(newest.bytes(), path)
                                           : scalar(newest);
  return call(operate_on_plain.get(), value.get(), operations.get());
}

Ref ContextMerger::resolve(worker::Transaction& transaction, const worker::Entry* entry,
                           const worker::Value& newest, PyObject* path) {
  if (entry->value.kind != Kind::kLeaf || newest.kind != Kind::kLeaf) return Ref();
  // What this transaction has written, before it was merged for the first time.
  auto& all = noted(context_);
  auto at = std::find_if(all.begin(), all.end(),
                         [entry](const auto& each) { return each.entry == entry; });
  if (at == all.end()) {
    const std::string_view bytes = entry->value.bytes();
    all.push_back({entry, Ref(),
                   Ref::check(PyBytes_FromStringAndSize(bytes.data(),
                                                        static_cast<Py_ssize_t>(bytes.size())))});
    at = all.end() - 1;
  }
  if (!at->written) return Ref();
  Ref written = Ref::borrow(at->written.get());
  Ref mine = decode_private(
      {PyBytes_AS_STRING(written.get()), static_cast<std::size_t>(PyBytes_GET_SIZE(written.get()))},
      path);
  const worker::Value before = transaction.before(entry);
  Ref old = before.kind == Kind::kLeaf     ? decode_private(before.bytes(), path)
            : before.kind == Kind::kAbsent ? Ref::borrow(Py_None)
                                           : scalar(before);
  Ref committed = decode_private(newest.bytes(), path);
  return call(resolve_conflict.get(), old.get(), committed.get(), mine.get(), path);
}

bool ContextMerger::merge(worker::Transaction& transaction, worker::Entry* entry,
                          const worker::Value& newest) {
  if (newest.kind == Kind::kMapping) return false;
  // Deleted meanwhile: whoever did that is not to find it again.
  if (newest.kind == Kind::kAbsent && entry->present_in_snapshot) return false;
  Ref path = entry_path(entry);
  Ref merged;
  if (!entry->read) merged = operate_again(entry, newest, path.get());
  if (!merged) merged = resolve(transaction, entry, newest, path.get());
  if (!merged || merged.get() == Py_NotImplemented) return false;
  if (put_scalar(transaction, entry, merged.get())) return true;
  std::optional<LeafEncoding> encoding;
  try {
    encoding.emplace(merged.get());
  } catch (const PythonError&) {
    raise_at(ErrorClass::kEncode, path.get(), true,
             "%U was changed by others too, and what came of merging both cannot be pickled (the "
             "cause says why); nothing was written",
             path_text(path.get()).get());
  }
  encoding->write(transaction.put_leaf(entry, encoding->size(), encoding->has_buffers()),
                  *attached_of(context_));
  return true;
}

}  // namespace theus::bindings
