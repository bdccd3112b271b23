/* Computes for so long as its argument says: hashing, sorting, branching, and calls that are not inlined. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint32_t values[4096];

static uint64_t __attribute__((noinline)) mix(uint64_t hash, uint32_t value) {
  hash ^= value;
  hash *= 0x100000001b3;
  return hash >> 29 ^ hash;
}

static void __attribute__((noinline)) sift(uint32_t root, uint32_t count) {
  for (uint32_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && values[child] < values[child + 1]) child++;
    if (values[root] >= values[child]) return;
    uint32_t value = values[root];
    values[root] = values[child];
    values[child] = value;
  }
}

int main(int count, char **words) {
  uint64_t hash = 0xcbf29ce484222325;
  long rounds = count > 1 ? atol(words[1]) : 1;
  for (long round = 0; round < rounds; round++) {
    uint32_t state = (uint32_t)round + 1;
    for (uint32_t place = 0; place < 4096; place++) values[place] = state = state * 1664525 + 1013904223;
    for (uint32_t root = 2048; root-- > 0;) sift(root, 4096);
    for (uint32_t end = 4096; --end > 0;) {
      uint32_t value = values[0];
      values[0] = values[end];
      values[end] = value;
      sift(0, end);
    }
    for (uint32_t place = 0; place < 4096; place++) hash = mix(hash, values[place]);
  }
  printf("%llx\n", (unsigned long long)hash);
  return 0;
}
