// Runs entries of a level's table on operands of exactly their size, for a build with sanitizers. Cases on standard input,
// each a line "kernel op dtype threads ndims dims... nscalars scalars... noperands (bytes given)..." ("-" is an empty op),
// then the contents of the operands that are given. Every variant runs twice; one line of variants is printed a case.
#include <cstdio>
#include <iostream>
#include <string>

#include "timed.h"

using namespace pk;

int main() {
  const pk_library* library = pk_library_v1();
  std::string kernel, op, dtype;
  int threads;
  while (std::cin >> kernel >> op >> dtype >> threads) {
    if (op == "-") op.clear();
    Call call;
    size_t count;
    std::cin >> count;
    call.dim.resize(count);
    for (auto& x : call.dim) std::cin >> x;
    std::cin >> count;
    call.scalar.resize(count);
    for (auto& x : call.scalar) std::cin >> x;
    std::cin >> count;
    std::vector<std::pair<size_t, int>> sizes(count);
    for (auto& [bytes, given] : sizes) std::cin >> bytes >> given;
    std::cin.get();
    std::vector<std::unique_ptr<char[]>> operands;
    for (auto& [bytes, given] : sizes) {
      operands.emplace_back(new char[bytes]);
      if (given) std::cin.read(operands.back().get(), std::streamsize(bytes));
      else memset(operands.back().get(), 0xF5, bytes);
      call.ptr.push_back(operands.back().get());
    }
    std::vector<int> cpus(threads, 0);
    Team team(cpus);
    for (int i = 0; i < library->count; ++i) {
      const pk_entry& e = library->entry[i];
      if (kernel != e.kernel || op != e.op || dtype != e.dtype) continue;
      run_entry(team, e, call, 2);
      printf("%s ", e.variant);
    }
    puts("");
  }
}
