// KnownFd: a descriptor that is kept for long, and which file it is.
//
// A program may close every descriptor it finds (daemons do), ours included; the number is then
// another file's, which is not ours to write to or to close.
#pragma once

#include <sys/stat.h>

#include <utility>

#include "shm/owned_fd.h"

namespace theus::shm {

// Resource type. Everything is async-signal-safe.
class KnownFd {
 public:
  KnownFd() = default;
  explicit KnownFd(OwnedFd fd) noexcept : fd_(std::move(fd)) {
    if (!fd_ || ::fstat(fd_.get(), &file_) != 0) static_cast<void>(fd_.release());
  }
  KnownFd(KnownFd&& other) noexcept = default;
  KnownFd& operator=(KnownFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::move(other.fd_);
      file_ = other.file_;
    }
    return *this;
  }
  ~KnownFd() { reset(); }

  // -1: none, or it has been closed behind our back.
  int get() const noexcept {
    struct stat now {};
    const bool same = fd_ && ::fstat(fd_.get(), &now) == 0 && now.st_dev == file_.st_dev &&
                      now.st_ino == file_.st_ino;
    return same ? fd_.get() : -1;
  }
  void reset() noexcept {
    if (get() < 0) static_cast<void>(fd_.release());
    fd_.reset();
  }

 private:
  OwnedFd fd_;
  struct stat file_ {};
};

}  // namespace theus::shm
