/*
 * files.h: what a web server has to know of files: which one a URL means and
 * what kind it is, how HTTP writes a date, which part of it is asked for.
 */
#ifndef FILES_H
#define FILES_H

#include "http-request.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX_URL  4096 /* bytes */
#define FILES_MAX_HEAD (FILES_MAX_URL + 128)

/* What to answer with. */
struct file {
	int status;                /* of HTTP */
	int fd;                    /* -1: none */
	long long from, len;       /* the bytes that are asked for */
	struct stat st;            /* of the file */
	const char *type;          /* its media type */
	char head[FILES_MAX_HEAD]; /* lines of the answer's head, or "" */
};

/* The path of a URL without its escapes, as a string, which is no longer: -1
 * if an escape is none, or of a NUL. */
static inline int files_decode(const char *url, size_t len, char *path)
{
	char hex[3] = "";
	size_t i;

	for (i = 0; i < len; i++) {
		*path = url[i];
		if (url[i] == '%') {
			if (len - i < 3 ||
				!isxdigit((unsigned char)url[i + 1]) ||
				!isxdigit((unsigned char)url[i + 2]))
				return -1;
			memcpy(hex, url + i + 1, 2);
			*path = (char)strtol(hex, NULL, 16);
			i += 2;
		}
		if (*path++ == '\0')
			return -1;
	}
	*path = '\0';
	return 0;
}

/* The media type that goes with the end of a name. */
static inline const char *files_type(const char *name)
{
	static const char *const types[][2] = {
		{"html", "text/html; charset=utf-8"},
		{"css", "text/css; charset=utf-8"},
		{"js", "text/javascript; charset=utf-8"},
		{"txt", "text/plain; charset=utf-8"},
		{"c", "text/plain; charset=utf-8"},
		{"h", "text/plain; charset=utf-8"},
		{"md", "text/plain; charset=utf-8"},
		{"json", "application/json"}, {"pdf", "application/pdf"},
		{"wasm", "application/wasm"}, {"xml", "application/xml"},
		{"svg", "image/svg+xml"}, {"png", "image/png"},
		{"jpg", "image/jpeg"}, {"jpeg", "image/jpeg"},
		{"gif", "image/gif"}, {"webp", "image/webp"},
		{"ico", "image/x-icon"}, {"woff2", "font/woff2"},
		{"mp4", "video/mp4"}, {"mp3", "audio/mpeg"}};
	const char *dot = strrchr(name, '.');
	size_t i;

	for (i = 0; dot && i < sizeof(types) / sizeof(types[0]); i++)
		if (strcasecmp(dot + 1, types[i][0]) == 0)
			return types[i][1];
	return "application/octet-stream";
}

/* As HTTP writes it (RFC 9110, 5.6.7); NULL for a year that it cannot write.
 * Two are kept for each thread, since the next one is most often the same: that
 * of now, and that of a file. */
#define FILES_YEAR_10000 253402300800

enum files_date { FILES_NOW, FILES_MODIFIED };

static inline const char *files_date(enum files_date which, time_t time)
{
	static _Thread_local struct {
		time_t time;
		char text[32];
	} kept[2];
	struct tm tm;

	if (time < 0 || time >= FILES_YEAR_10000)
		return NULL;
	if (kept[which].time != time || !kept[which].text[0])
		strftime(kept[which].text, sizeof(kept[which].text),
			"%a, %d %b %Y %T GMT", gmtime_r(&time, &tm));
	kept[which].time = time;
	return kept[which].text;
}

/* What such a text means; -1: it is none. */
static inline time_t files_time(const char *text, size_t len)
{
	char copy[32] = "";
	struct tm tm = {0};
	const char *end;

	if (len >= sizeof(copy))
		return -1;
	memcpy(copy, text, len);
	end = strptime(copy, "%a, %d %b %Y %T GMT", &tm);
	return end && *end == '\0' ? timegm(&tm) : -1;
}

/* Opens what path means below the folder root, out of which nothing leads,
 * neither ".." nor a link (openat2(2), Linux 5.6). The status is 200 for a file
 * and 301 for a folder. */
static inline void files_open(struct file *file, int root, const char *path)
{
	struct open_how how = {.resolve = RESOLVE_BENEATH,
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY};
	int tries = 0;

	/* EAGAIN: somebody has renamed a folder meanwhile. */
	do
		file->fd = (int)syscall(
			SYS_openat2, root, path, &how, sizeof(how));
	while (file->fd == -1 && errno == EAGAIN && ++tries < 100);
	if (file->fd == -1 || fstat(file->fd, &file->st) == -1)
		file->status = errno == EXDEV || errno == EACCES ? 403
			: errno == EMFILE || errno == ENFILE ||
				errno == ENOMEM || errno == EAGAIN
			? 503
			: 404;
	else if (S_ISDIR(file->st.st_mode))
		file->status = 301;
	else
		file->status = S_ISREG(file->st.st_mode) ? 200 : 403;
}

/* Finds what the path of a URL means, index.html for a folder. */
static inline void files_find(struct file *file, int root,
	const struct part *url, const struct part *query)
{
	char decoded[FILES_MAX_URL + sizeof("index.html")];
	char *path = decoded;
	char *end;
	size_t slashes;

	memset(file, 0, offsetof(struct file, head));
	file->head[0] = '\0';
	file->fd = -1;
	file->status = 400;
	if (!url->at || url->len > FILES_MAX_URL ||
		files_decode(url->at, url->len, decoded) == -1)
		return;
	path += strspn(decoded, "/");
	end = path + strlen(path);
	if (end == path || end[-1] == '/')
		memcpy(end, "index.html", sizeof("index.html"));
	files_open(file, root, path);
	file->type = files_type(path);
	file->len = file->st.st_size;
	if (file->status == 301 && *end) /* index.html is a folder */
		file->status = 404;
	if (file->status != 301)
		return;
	slashes = strspn(url->at, "/"); /* one: a path, never another host */
	snprintf(file->head, sizeof(file->head), "Location: /%.*s/%.*s\r\n",
		(int)(url->len - slashes), url->at + slashes, (int)query->len,
		query->at);
}

/*
 * The one range of size bytes that is asked for (RFC 9110, 14.1): 206 and where
 * it is; 416 if nothing of it is there; 200 if the text is no range, or
 * several, which need no answer.
 */
static inline int files_range(const char *text, size_t text_len, long long size,
	long long *from, long long *len)
{
	const char *at = text + 6;
	long long last = LLONG_MAX;
	long long first;
	char *end;

	if (text_len < 8 || strncasecmp(text, "bytes=", 6) != 0 ||
		!isdigit((unsigned char)at[*at == '-']))
		return 200;
	first = strtoll(at, &end, 10);
	if (*at == '-')
		first = first == 0 ? size : first < -size ? 0 : size + first;
	else if (*end++ != '-')
		return 200;
	else if (isdigit((unsigned char)*end))
		last = strtoll(end, &end, 10);
	if (end != text + text_len || last < first)
		return 200;
	if (first >= size)
		return 416;
	*from = first;
	*len = (last < size ? last + 1 : size) - first;
	return 206;
}

/* What to answer for a file that was found, by these fields of the request. A
 * range is of the file that the client knows: of that date, if it says one. */
static inline void files_select(struct file *file, const struct part *since,
	const struct part *range, const struct part *if_range)
{
	long long size = file->st.st_size;
	time_t modified = file->st.st_mtime;
	const char *date = files_date(FILES_MODIFIED, modified);
	int used = snprintf(file->head, sizeof(file->head),
		"%s%s%sAccept-Ranges: bytes\r\n", date ? "Last-Modified: " : "",
		date ? date : "", date ? "\r\n" : "");
	char *head = file->head + used;
	size_t room = sizeof(file->head) - (size_t)used;

	if (date && since->at && modified <= files_time(since->at, since->len))
		file->status = 304;
	else if (range->at &&
		(!if_range->at ||
			(date &&
				modified ==
					files_time(
						if_range->at, if_range->len))))
		file->status = files_range(
			range->at, range->len, size, &file->from, &file->len);
	if (file->status == 206)
		snprintf(head, room, "Content-Range: bytes %lld-%lld/%lld\r\n",
			file->from, file->from + file->len - 1, size);
	else if (file->status == 416)
		snprintf(head, room, "Content-Range: bytes */%lld\r\n", size);
}

#endif /* FILES_H */
