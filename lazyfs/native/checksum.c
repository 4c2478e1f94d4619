/*
 * XXH3-64 with the instructions of AVX2: twice as fast as with those that every x86-64 has.
 *
 * Only where a compiler turns them on for a file (GCC does) is it any different; the caller asks the processor.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2")
#endif
#define XXH_INLINE_ALL

#include <xxhash.h>

#include "shortcut.h"

uint64_t checksum_avx2(const void *bytes, size_t length)
{
	return XXH3_64bits(bytes, length);
}
