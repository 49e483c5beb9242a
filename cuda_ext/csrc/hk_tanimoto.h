// Largest Tanimoto similarity of a bit vector to any of a set.
#pragma once
#include "hk_group.h"

namespace HK_NS {

HK_FN int popcount_(hk_word w) {
#if defined(__CUDA_ARCH__)
  return __popcll(w);
#else
  return __builtin_popcountll(w);
#endif
}

HK_FN float tanimoto(int common, int left, int right) {
  int together = left + right - common;
  return together == 0 ? 1.0f : (float)common / (float)together;  // two empty vectors are alike
}

// Packed rows: query (words), reference (m, words) with its popcounts. One query; lanes share the reference.
template <class G>
HK_FN float tanimoto_row(const G& g, const hk_word* query, const hk_word* reference, const int* sizes,
                         hk_int m, int words, int first, int step) {
  int own = 0;
  for (int w = 0; w < words; ++w) own += popcount_(query[w]);
  float best = 0.0f;
  for (hk_int r = first; r < m; r += step) {
    // The bound min/max needs no look at the bits.
    int size = sizes[r];
    if (tanimoto(min_(own, size), own, size) <= best) continue;
    const hk_word* row = reference + r * words;
    int common = 0;
    for (int w = 0; w < words; ++w) common += popcount_(query[w] & row[w]);
    best = max_(best, tanimoto(common, own, size));
  }
  return best;
}

// The reference by columns (hyperkit_mol.moses): columns (bits, words), one bit a molecule; molecules sorted by
// popcount, group j of popcount sizes[j] begins at word starts[j]. A query adds up the columns of its set bits
// in a carry-save counter of ten binary digits, 512 molecules at a time, and reads the largest count off the
// digits from the top.
template <int LANES>
struct Counter {
  hk_word digit[10][LANES];
  // digit j of the sum of three bits and the carry
  static HK_FN void full(hk_word& carry, hk_word& a, hk_word b, hk_word c) {
    hk_word half = a ^ b;
    carry = (a & b) | (half & c);
    a = half ^ c;
  }
};

#if !defined(__CUDACC__)  // by columns: for the CPU
inline int largest_count(const hk_word* columns, hk_int words, const int* on, int count, hk_int at) {
  constexpr int LANES = 8;
  Counter<LANES> s;
  for (int j = 0; j < 10; ++j) HK_LOOP for (int l = 0; l < LANES; ++l) s.digit[j][l] = 0;
  hk_word two[LANES], two2[LANES], four[LANES], four2[LANES], eight[LANES];
  int i = 0;
  for (; i + 8 <= count; i += 8) {  // eight columns: seven full adders and one carry to the eights
    const hk_word* col[8];
    for (int j = 0; j < 8; ++j) col[j] = columns + on[i + j] * words + at;
    HK_LOOP for (int l = 0; l < LANES; ++l) {
      hk_word one = s.digit[0][l], t = s.digit[1][l], f = s.digit[2][l];
      s.full(two[l], one, col[0][l], col[1][l]);
      s.full(two2[l], one, col[2][l], col[3][l]);
      s.full(four[l], t, two[l], two2[l]);
      s.full(two[l], one, col[4][l], col[5][l]);
      s.full(two2[l], one, col[6][l], col[7][l]);
      s.full(four2[l], t, two[l], two2[l]);
      s.full(eight[l], f, four[l], four2[l]);
      s.digit[0][l] = one;
      s.digit[1][l] = t;
      s.digit[2][l] = f;
    }
    for (int j = 3; (i + 8) >> j; ++j) {
      HK_LOOP for (int l = 0; l < LANES; ++l) {
        hk_word carry = s.digit[j][l] & eight[l];
        s.digit[j][l] ^= eight[l];
        eight[l] = carry;
      }
    }
  }
  for (; i < count; ++i) {
    const hk_word* col = columns + on[i] * words + at;
    HK_LOOP for (int l = 0; l < LANES; ++l) two[l] = col[l];
    for (int j = 0; (i + 1) >> j; ++j) {
      HK_LOOP for (int l = 0; l < LANES; ++l) {
        hk_word carry = s.digit[j][l] & two[l];
        s.digit[j][l] ^= two[l];
        two[l] = carry;
      }
    }
  }
  int best = 0;
  hk_word among[LANES];
  for (int l = 0; l < LANES; ++l) among[l] = ~0ull;
  for (int j = 9; j >= 0; --j) {
    if (!(count >> j)) continue;
    hk_word any = 0, larger[LANES];
    for (int l = 0; l < LANES; ++l) {
      larger[l] = s.digit[j][l] & among[l];
      any |= larger[l];
    }
    if (any == 0) continue;
    best += 1 << j;
    for (int l = 0; l < LANES; ++l) among[l] = larger[l];
  }
  return best;
}

inline float tanimoto_columns(const hk_word* columns, hk_int words, const hk_int* starts, const hk_int* sizes,
                              hk_int groups, const int* on, int count, hk_word* tail) {
  float best = 0.0f;
  // Groups in the order of their bound: outwards from the query's own number of bits.
  hk_int up = 0;
  while (up < groups && sizes[up] < count) ++up;
  hk_int down = up - 1;
  while (up < groups || down >= 0) {
    float bound_up = up < groups ? tanimoto(min_(count, (int)sizes[up]), count, (int)sizes[up]) : -1.0f;
    float bound_down = down >= 0 ? tanimoto(min_(count, (int)sizes[down]), count, (int)sizes[down]) : -1.0f;
    hk_int j = bound_up >= bound_down ? up++ : down--;
    // Correctly rounded division is monotonic: a group whose bound is not larger cannot raise the maximum.
    if (max_(bound_up, bound_down) <= best) break;
    hk_int at = starts[j], end = j + 1 < groups ? starts[j + 1] : words;
    int most = 0;
    for (; at + 8 <= end; at += 8) most = max_(most, largest_count(columns, words, on, count, at));
    if (at < end) {  // less than a block is left: copied, with nothing behind it
      int left = (int)(end - at);
      for (int i = 0; i < count; ++i)
        for (int l = 0; l < 8; ++l) tail[i * 8 + l] = l < left ? columns[on[i] * words + at + l] : 0;
      // `on` names columns; of the copy it is column i.
      int own[1024];
      for (int i = 0; i < count; ++i) own[i] = i;
      most = max_(most, largest_count(tail, 8, own, count, 0));
    }
    best = max_(best, tanimoto(most, count, (int)sizes[j]));
  }
  return best;
}

#endif

}  // namespace HK_NS
