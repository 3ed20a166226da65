/*
 * socket_folder.h: beside listen_rig.h, a folder for each test of unix sockets,
 * at whose end nothing may be left in it. FOLDER_TEST(fn) is a LEDGER_TEST in
 * a new one; the suite's enter says with what scheme: enter_folder.
 */
#ifndef SOCKET_FOLDER_H
#define SOCKET_FOLDER_H

#include "listen_rig.h"

#include <dirent.h>

static char folder[32];
static char path[64];       /* folder/s */
static char socket_url[80]; /* scheme and path */

static inline int nr_names(void)
{
	DIR *dir = opendir(folder);
	int names = 0;

	while (dir && readdir(dir))
		names++;
	if (dir)
		closedir(dir);
	return names - 2;
}

static inline int enter_folder(void **state, const char *scheme)
{
	snprintf(folder, sizeof(folder), "/tmp/test_listen.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/s", folder);
	snprintf(socket_url, sizeof(socket_url), "%s%s", scheme, path);
	return ledger_open(state);
}

/* What a test that failed holds at the gate is let go. */
static inline int leave_folder(void **state)
{
	bool clean;

	open_gate();
	stop_server();
	clean = nr_names() == 0;
	remove(path);
	return rmdir(folder) == 0 && server_close(state) == 0 && clean ? 0 : -1;
}

#define FOLDER_TEST(fn)                                   \
	{                                                 \
#fn, fn, enter, leave_folder, (void *)#fn \
	}

#endif /* SOCKET_FOLDER_H */
