/* Computes for so long as its argument says: heapsort, which is all branches, and SHA-256's compression, which has few. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint32_t values[4096];

static uint32_t turned(uint32_t value, int by) { return value >> by | value << (32 - by); }

/* The rounds' constants are any: only what it costs counts. */
static void __attribute__((noinline)) compress(uint32_t hash[8], const uint32_t block[16]) {
  uint32_t w[64], v[8];
  for (int i = 0; i < 16; i++) w[i] = block[i];
  for (int i = 16; i < 64; i++) {
    uint32_t a = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
    uint32_t b = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  for (int i = 0; i < 8; i++) v[i] = hash[i];
  for (int i = 0; i < 64; i++) {
    uint32_t a = turned(v[4], 6) ^ turned(v[4], 11) ^ turned(v[4], 25);
    uint32_t one = v[7] + a + ((v[4] & v[5]) ^ (~v[4] & v[6])) + 0x9e3779b9u * (i + 1) + w[i];
    uint32_t b = turned(v[0], 2) ^ turned(v[0], 13) ^ turned(v[0], 22);
    uint32_t two = b + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
    v[7] = v[6], v[6] = v[5], v[5] = v[4], v[4] = v[3] + one;
    v[3] = v[2], v[2] = v[1], v[1] = v[0], v[0] = one + two;
  }
  for (int i = 0; i < 8; i++) hash[i] += v[i];
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
  uint32_t hash[8] = {1, 2, 3, 4, 5, 6, 7, 8};
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
    for (uint32_t place = 0; place < 4096; place += 16) compress(hash, values + place);
  }
  printf("%08x%08x\n", hash[0], hash[7]);
  return 0;
}
