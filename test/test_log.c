/* test_log.c: the log hook. */
#include "ledger.h"
#include "../evt-log-internal.h"

#include <pthread.h>

static void a_line_reaches_the_hook_with_its_level(void **state)
{
	(void)state;
	evt_log_(EVT_LOG_WARN, "%d bottles", 3);
	assert_string_equal(log_line(0), "3 bottles");
	assert_int_equal(log_lines(EVT_LOG_WARN), 1);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_line_reaches_the_hook_with_its_level),
	};

	return ledger_run("log", tests);
}
