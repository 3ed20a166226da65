/*
 * fuzz.h: what the fuzz targets have in common. A target is one function that
 * takes any bytes, and stops the program when what they do is not as it has to
 * be. `make fuzz` has libFuzzer look for such bytes; `make check` gives each
 * target the files of its corpus, test/corpus/NAME (replay.c).
 *
 * A target may say at its top what libFuzzer is to be told:
 * fuzz: -max_len=256
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Before the first input. Optional. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* After the last one, for what was kept from one to the next. Optional, and
 * libFuzzer does not call it. */
void fuzz_tidy_up(void);

/* What has to be true, or this input is a finding. */
#define REQUIRE(condition)                                                 \
	do {                                                               \
		if (!(condition)) {                                        \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, \
				__LINE__, #condition);                     \
			abort();                                           \
		}                                                          \
	} while (0)

/* An input as a program: bytes that choose. Past its end all are 0. */
struct input {
	const uint8_t *at;
	const uint8_t *end;
};

static inline bool is_over(const struct input *input)
{
	return input->at == input->end;
}

static inline uint8_t take_byte(struct input *input)
{
	return is_over(input) ? 0 : *input->at++;
}

/* 0 to below - 1. */
static inline unsigned take_below(struct input *input, unsigned below)
{
	return take_byte(input) % below;
}

static inline unsigned take_16(struct input *input)
{
	unsigned high = take_byte(input);

	return high << 8 | take_byte(input);
}

/* The bytes in memory of exactly their size, for the sanitizers to see who
 * leaves it; to be freed. */
static inline char *exact_copy(const void *bytes, size_t len)
{
	char *copy = malloc(len + !len);

	if (!copy)
		abort();
	memcpy(copy, bytes, len);
	return copy;
}

#endif /* FUZZ_H */
