/*
 * proc.h: what /proc tells of a server: how often it has slept, how much memory
 * is its own, and which processes it has started.
 */
#ifndef BENCH_PROC_H
#define BENCH_PROC_H

#include "child.h"

#include <dirent.h>

/* The line "voluntary_ctxt_switches:" of one thread; 0 if it has ended. */
static inline long thread_switches(
	const struct child *child, const char *thread)
{
	char line[128];
	char file[64];
	long switches = 0;
	FILE *status;

	snprintf(file, sizeof(file), "/proc/%d/task/%.16s/status", child->pid,
		thread);
	status = fopen(file, "re");
	if (!status)
		return 0;
	while (fgets(line, sizeof(line), status))
		sscanf(line, "voluntary_ctxt_switches: %ld", &switches);
	fclose(status);
	return switches;
}

static inline long process_switches(const struct child *child)
{
	const struct dirent *entry;
	char folder[64];
	long sum = 0;
	DIR *tasks;

	snprintf(folder, sizeof(folder), "/proc/%d/task", child->pid);
	tasks = opendir(folder);
	if (!tasks)
		give_up(child->path, "no tasks in /proc");
	while ((entry = readdir(tasks)) != NULL) {
		if (entry->d_name[0] != '.')
			sum += thread_switches(child, entry->d_name);
	}
	closedir(tasks);
	return sum;
}

static inline void wait_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* The line "RssAnon:" of the process: what it has written to, heap and stacks
 * included, its files not. */
static inline long process_memory_kib(const struct child *child)
{
	char line[128];
	char file[64];
	long kib = -1;
	FILE *status;

	snprintf(file, sizeof(file), "/proc/%d/status", child->pid);
	status = fopen(file, "re");
	if (!status)
		give_up(child->path, "no status in /proc");
	while (fgets(line, sizeof(line), status))
		sscanf(line, "RssAnon: %ld", &kib);
	fclose(status);
	if (kib == -1)
		give_up(child->path, "no RssAnon in /proc");
	return kib;
}

/* Of the process, and of those that it has started, and so on: nginx has a
 * process for each worker, nsd one that starts those of its workers. */
static inline int64_t family_cpu_ns_of(pid_t pid)
{
	int64_t sum = process_cpu_ns(pid);
	char file[64];
	FILE *children;
	int child;

	snprintf(file, sizeof(file), "/proc/%d/task/%d/children", pid, pid);
	children = fopen(file, "re");
	if (!children)
		give_up("a server", "no children in /proc");
	while (fscanf(children, "%d", &child) == 1)
		sum += family_cpu_ns_of(child);
	fclose(children);
	return sum;
}

static inline int64_t family_cpu_ns(const struct child *child)
{
	return family_cpu_ns_of(child->pid);
}

#endif /* BENCH_PROC_H */
