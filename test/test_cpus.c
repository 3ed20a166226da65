/*
 * test_cpus.c: how many CPUs this process may use: affinity, and the quotas of
 * cgroups of both versions, read from a folder made up for each test.
 */
/* wrap: sched_getaffinity sysconf __sched_cpualloc */
#include "ledger.h"
#include "../evt-core.h"
#include "../evt-net-internal.h"

#include <ftw.h>
#include <sched.h>
#include <sys/stat.h>

/* The affinity that is told: 0 the real one, -1 none. */

static int allowed_cpus;
static size_t least_mask; /* a shorter mask is refused with EINVAL */
static bool no_mask;      /* no memory for one */
static long online_cpus;  /* 0: the real number */

int __real_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
long __real_sysconf(int name);

int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
	int i;

	if (allowed_cpus == 0)
		return __real_sched_getaffinity(pid, size, set);
	if (allowed_cpus == -1 || size < least_mask) {
		errno = EINVAL;
		return -1;
	}
	CPU_ZERO_S(size, set);
	for (i = 0; i < allowed_cpus; i++)
		CPU_SET_S((size_t)i, size, set);
	return 0;
}

cpu_set_t *__real___sched_cpualloc(size_t bits);

/* CPU_ALLOC */
cpu_set_t *__wrap___sched_cpualloc(size_t bits)
{
	return no_mask ? NULL : __real___sched_cpualloc(bits);
}

long __wrap_sysconf(int name)
{
	if (name == _SC_NPROCESSORS_ONLN && online_cpus != 0)
		return online_cpus;
	return __real_sysconf(name);
}

/* A root of files. */

static char root[64];

static void in_root(char *path, size_t size, const char *name)
{
	assert_true(snprintf(path, size, "%s/%s", root, name) < (int)size);
}

static void make_file(const char *name, const char *text)
{
	char path[1024];
	char *slash;
	FILE *file;

	in_root(path, sizeof(path), name);
	for (slash = strchr(path + 1, '/'); slash;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(path, 0755);
		*slash = '/';
	}
	file = fopen(path, "we");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int open_root(void **state)
{
	snprintf(root, sizeof(root), "/tmp/evt-test-cpus-XXXXXX");
	allowed_cpus = 8;
	return mkdtemp(root) ? ledger_open(state) : -1;
}

static int remove_one(
	const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int close_root(void **state)
{
	allowed_cpus = 0;
	least_mask = 0;
	no_mask = false;
	online_cpus = 0;
	nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	return ledger_close(state);
}

#define ROOT_TEST(fn)                                       \
	{                                                   \
#fn, fn, open_root, close_root, (void *)#fn \
	}

/* The CPUs with this in the group's own cpu.max. */
static int with_quota(const char *quota)
{
	make_file("proc/self/cgroup", "0::/group\n");
	make_file("sys/fs/cgroup/group/cpu.max", quota);
	return evt_net_cpus_(root);
}

/* Affinity */

/* L04 */
static void this_process_may_use_at_least_one_cpu(void **state)
{
	(void)state;
	allowed_cpus = 0;
	assert_true(get_nr_cpus() >= 1);
	assert_true(get_nr_cpus() <= __real_sysconf(_SC_NPROCESSORS_CONF));
}

static void with_one_cpu_allowed(void *arg)
{
	cpu_set_t all;
	cpu_set_t one;
	size_t i;

	(void)arg;
	CHECK(__real_sched_getaffinity(0, sizeof(all), &all) == 0);
	for (i = 0; i < CPU_SETSIZE && !CPU_ISSET(i, &all); i++)
		;
	CPU_ZERO(&one);
	CPU_SET(i, &one);
	CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
	CHECK(get_nr_cpus() == 1);
}

/* L04 */
static void an_affinity_of_one_is_one_cpu(void **state)
{
	(void)state;
	allowed_cpus = 0;
	assert_int_equal(in_child(with_one_cpu_allowed, NULL, 5), 0);
}

/* L04 */
static void without_any_file_the_affinity_counts(void **state)
{
	(void)state;
	assert_int_equal(evt_net_cpus_(root), 8);
	assert_int_equal(evt_net_cpus_("/nowhere/at/all"), 8);
}

/* L04 */
static void a_machine_with_more_cpus_than_a_mask_holds_is_counted(void **state)
{
	(void)state;
	allowed_cpus = 5000;
	least_mask = CPU_ALLOC_SIZE(5000);
	assert_int_equal(evt_net_cpus_(root), 5000);
}

/* L04 */
static void without_an_affinity_the_cpus_online_count(void **state)
{
	(void)state;
	allowed_cpus = -1;
	online_cpus = 6;
	assert_int_equal(evt_net_cpus_(root), 6);
}

/* L04 */
static void without_any_answer_it_is_one(void **state)
{
	(void)state;
	allowed_cpus = -1;
	online_cpus = -1;
	assert_int_equal(evt_net_cpus_(root), 1);
}

/* L04 */
static void without_memory_for_a_mask_the_cpus_online_count(void **state)
{
	(void)state;
	online_cpus = 3;
	no_mask = true;
	assert_int_equal(evt_net_cpus_(root), 3);
}

static void errno_is_kept(void **state)
{
	(void)state;
	errno = EPROTO;
	assert_int_equal(evt_net_cpus_("/nowhere"), 8);
	assert_int_equal(errno, EPROTO);
	assert_int_equal(with_quota("garbage"), 8);
	assert_null(log_line(0));
}

/* Version 2 */

/* L04 */
static void a_quota_is_rounded_up_to_whole_cpus(void **state)
{
	(void)state;
	assert_int_equal(with_quota("50000 100000\n"), 1);
	assert_int_equal(with_quota("100000 100000\n"), 1);
	assert_int_equal(with_quota("100001 100000\n"), 2);
	assert_int_equal(with_quota("250000 100000\n"), 3);
	assert_int_equal(with_quota("1 100000\n"), 1);
	assert_int_equal(with_quota("40000 10000\n"), 4);
}

/* L04 */
static void a_quota_of_max_is_none(void **state)
{
	(void)state;
	assert_int_equal(with_quota("max 100000\n"), 8);
}

/* L04 */
static void a_quota_above_the_affinity_changes_nothing(void **state)
{
	(void)state;
	assert_int_equal(with_quota("900000 100000\n"), 8);
	assert_int_equal(with_quota("9223372036854775807 1\n"), 8);
	assert_int_equal(with_quota("99999999999999999999999 1\n"), 8);
}

/* L04 */
static void the_smallest_quota_up_to_the_root_counts(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "0::/a/b/c\n");
	make_file("sys/fs/cgroup/a/b/c/cpu.max", "700000 100000\n");
	assert_int_equal(evt_net_cpus_(root), 7);
	make_file("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
	assert_int_equal(evt_net_cpus_(root), 7);
	make_file("sys/fs/cgroup/a/cpu.max", "300000 100000\n");
	assert_int_equal(evt_net_cpus_(root), 3);
	make_file("sys/fs/cgroup/cpu.max", "200000 100000\n");
	assert_int_equal(evt_net_cpus_(root), 2);
}

/* L04: what a container sees. */
static void the_group_may_be_the_root_itself(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "0::/\n");
	make_file("sys/fs/cgroup/cpu.max", "200000 100000\n");
	assert_int_equal(evt_net_cpus_(root), 2);
}

/* L04 */
static void nothing_above_the_root_of_the_groups_is_read(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "0::/a\n");
	make_file("sys/fs/cgroup/a/cpu.max", "max 100000\n");
	make_file("sys/fs/cpu.max", "100000 100000\n");
	make_file("cpu.max", "100000 100000\n");
	assert_int_equal(evt_net_cpus_(root), 8);
}

/* Version 1 */

/* L04 */
static void the_files_of_version_1_are_read(void **state)
{
	(void)state;
	make_file("proc/self/cgroup",
		"5:memory:/other\n4:cpu,cpuacct:/g\n3:cpuset:/s\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "150000\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000\n");
	assert_int_equal(evt_net_cpus_(root), 2);
}

/* L04 */
static void minus_one_is_no_quota_in_version_1(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "4:cpu:/g\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "-1\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000\n");
	assert_int_equal(evt_net_cpus_(root), 8);
}

/* L04 */
static void a_missing_period_is_no_quota_in_version_1(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "4:cpu:/g\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "100000\n");
	assert_int_equal(evt_net_cpus_(root), 8);
}

/* L04 */
static void the_controller_may_be_named_second_in_version_1(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "4:cpuacct,cpu:/g\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "100000\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000\n");
	assert_int_equal(evt_net_cpus_(root), 1);
}

/* L04 */
static void the_sets_of_version_1_are_no_quota(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "3:cpuset:/g\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "100000\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000\n");
	assert_int_equal(evt_net_cpus_(root), 8);
}

/* Nonsense */

/* L04 */
static void a_malformed_quota_is_none(void **state)
{
	static const char *const texts[] = {"", "\n", "max", "max\n", "100000",
		"100000\n", "garbage\n", "1e3 100000\n", "0 100000\n",
		"-50000 100000\n", "50000 0\n", "50000 -100000\n", "0x1 0x1\n",
		" \n 1", "\xff\xfe 1\n", "- -\n"};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_int_equal(with_quota(texts[i]), 8);
}

/* L04 */
static void an_enormous_period_is_at_least_one_cpu(void **state)
{
	(void)state;
	assert_int_equal(with_quota("100000 9223372036854775807\n"), 1);
	assert_int_equal(
		with_quota("9223372036854775807 9223372036854775807\n"), 1);
}

/* L04 */
static void a_malformed_group_is_none(void **state)
{
	static const char *const texts[] = {"", "\n", "0",
		"0:", "0::", "::", ":::::", "0::/no/such/group\n",
		"0::no slash\n", "0::/../..\n", "garbage\n\n\n", "1:cpu",
		"1:cpu:", "1:cp:/group\n"};
	size_t i;

	(void)state;
	make_file("sys/fs/cgroup/group/cpu.max", "100000 100000\n");
	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		make_file("proc/self/cgroup", texts[i]);
		assert_int_equal(evt_net_cpus_(root), 8);
	}
}

/* L04 */
static void a_path_too_long_to_follow_does_no_harm(void **state)
{
	char line[4000];

	(void)state;
	memset(line, 'x', sizeof(line));
	memcpy(line, "0::/", 4);
	line[sizeof(line) - 2] = '\n';
	line[sizeof(line) - 1] = '\0';
	make_file("proc/self/cgroup", line);
	make_file("sys/fs/cgroup/cpu.max", "max 100000\n");
	assert_int_equal(evt_net_cpus_(root), 8);
	line[505] = '\n';
	line[506] = '\0';
	make_file("proc/self/cgroup", line);
	assert_int_equal(evt_net_cpus_(root), 8);
}

/* L04 */
static void a_root_of_any_length_does_no_harm(void **state)
{
	char longest[2000];
	size_t len;

	(void)state;
	memset(longest, 'r', sizeof(longest));
	longest[0] = '/';
	for (len = 480; len < sizeof(longest) - 1; len += 7) {
		longest[len] = '\0';
		assert_int_equal(evt_net_cpus_(longest), 8);
		longest[len] = 'r';
	}
}

/* L04 */
static void folders_in_place_of_files_do_no_harm(void **state)
{
	(void)state;
	make_file("proc/self/cgroup/x", "");
	make_file("sys/fs/cgroup/cpu.max/x", "");
	assert_int_equal(evt_net_cpus_(root), 8);
}

/* L04 */
static void the_quota_of_any_line_counts(void **state)
{
	(void)state;
	make_file("proc/self/cgroup", "4:cpu:/g\n0::/h\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "500000\n");
	make_file("sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000\n");
	assert_int_equal(evt_net_cpus_(root), 5);
	make_file("sys/fs/cgroup/h/cpu.max", "400000 100000\n");
	assert_int_equal(evt_net_cpus_(root), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ROOT_TEST(this_process_may_use_at_least_one_cpu),
		ROOT_TEST(an_affinity_of_one_is_one_cpu),
		ROOT_TEST(without_any_file_the_affinity_counts),
		ROOT_TEST(
			a_machine_with_more_cpus_than_a_mask_holds_is_counted),
		ROOT_TEST(without_an_affinity_the_cpus_online_count),
		ROOT_TEST(without_any_answer_it_is_one),
		ROOT_TEST(without_memory_for_a_mask_the_cpus_online_count),
		ROOT_TEST(errno_is_kept),
		ROOT_TEST(a_quota_is_rounded_up_to_whole_cpus),
		ROOT_TEST(a_quota_of_max_is_none),
		ROOT_TEST(a_quota_above_the_affinity_changes_nothing),
		ROOT_TEST(the_smallest_quota_up_to_the_root_counts),
		ROOT_TEST(the_group_may_be_the_root_itself),
		ROOT_TEST(nothing_above_the_root_of_the_groups_is_read),
		ROOT_TEST(the_files_of_version_1_are_read),
		ROOT_TEST(minus_one_is_no_quota_in_version_1),
		ROOT_TEST(a_missing_period_is_no_quota_in_version_1),
		ROOT_TEST(the_controller_may_be_named_second_in_version_1),
		ROOT_TEST(the_sets_of_version_1_are_no_quota),
		ROOT_TEST(a_malformed_quota_is_none),
		ROOT_TEST(an_enormous_period_is_at_least_one_cpu),
		ROOT_TEST(a_malformed_group_is_none),
		ROOT_TEST(a_path_too_long_to_follow_does_no_harm),
		ROOT_TEST(a_root_of_any_length_does_no_harm),
		ROOT_TEST(folders_in_place_of_files_do_no_harm),
		ROOT_TEST(the_quota_of_any_line_counts),
	};

	return ledger_run("cpus", tests);
}
