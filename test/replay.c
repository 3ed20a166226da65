/*
 * replay.c: gives a fuzz target its corpus, as a suite of one test: each file
 * of test/corpus/NAME, where the program is replay_NAME. If it ends there, a
 * line says with which file.
 */
#include "ledger.h"
#include "fuzz.h"

#include <glob.h>
#include <signal.h>

#define LONGEST 65536 /* bytes of an input */

static const char *target;
static const char *file = "";

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

__attribute__((weak)) void fuzz_tidy_up(void)
{
}

/* Of the sanitizers, where they are. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*fn)(void));

static void tell_file(void)
{
	(void)!write(STDERR_FILENO, "with ", 5);
	(void)!write(STDERR_FILENO, file, strlen(file));
	(void)!write(STDERR_FILENO, "\n", 1);
}

static void on_death(int sig)
{
	tell_file();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void replay_file(void)
{
	static uint8_t bytes[LONGEST];
	FILE *stream = fopen(file, "rb");
	size_t len;
	char *data;

	assert_non_null(stream);
	len = fread(bytes, 1, sizeof(bytes), stream);
	fclose(stream);
	assert_in_range(len, 0, LONGEST - 1);
	data = exact_copy(bytes, len);
	LLVMFuzzerTestOneInput((uint8_t *)data, len);
	free(data);
}

static void each_input_of_the_corpus_is_in_order(void **state)
{
	char pattern[256];
	glob_t files;
	size_t i;

	(void)state;
	snprintf(pattern, sizeof(pattern), "test/corpus/%s/*", target);
	assert_int_equal(glob(pattern, 0, NULL, &files), 0);
	for (i = 0; i < files.gl_pathc; i++) {
		file = files.gl_pathv[i];
		replay_file();
	}
	fuzz_tidy_up();
	print_message("%s: %zu inputs\n", target, files.gl_pathc);
	globfree(&files);
	file = "";
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(each_input_of_the_corpus_is_in_order),
	};
	const char *name = strrchr(argv[0], '/');

	name = name ? name + 1 : argv[0];
	target = strchr(name, '_') ? strchr(name, '_') + 1 : name;
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(tell_file);
	else
		signal(SIGSEGV, on_death);
	signal(SIGABRT, on_death);
	ledger_begin();
	LLVMFuzzerInitialize(&argc, &argv);
	return cmocka_run_group_tests_name(target, tests, NULL, NULL);
}
