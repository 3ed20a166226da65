/*
 * install_test.cc: a whole classic server and one client of it, as a program
 * outside of this tree would be written; C and C++ alike. test/check-install.sh
 * builds it against an installed library. It prints what came back.
 */
#include <evt-core.h>

static void serve(sockfd_t conn, short evt, void *arg)
{
	char buf[64];
	ssize_t len = read(conn, buf, sizeof(buf));

	(void)evt;
	if (len > 0 && write(conn, buf, (size_t)len) != len)
		sys_error("write");
	evt_close(conn);
	free(arg);
}

static void on_client(sockfd_t fd, short evt, void *arg)
{
	struct sockaddr *peer = new_sockaddr();
	sockfd_t conn = evt_tcp(fd, peer);

	(void)arg;
	if (conn == -1 || evt_thread_dispatch(conn, evt, peer) == -1) {
		free(peer);
		if (conn != -1)
			evt_close(conn);
	}
}

int main(void)
{
	char answer[64] = "";
	sockfd_t conn;

	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_start(on_client, NULL) == -1 ||
		evt_server_threads(serve, 2) != 2)
		return 1;
	conn = get_conn_to_host(NULL, evt_server_port(), SOCK_STREAM);
	if (conn == -1 || write(conn, "hello", 5) != 5 ||
		read(conn, answer, sizeof(answer) - 1) != 5)
		return 1;
	puts(answer);
	close(conn);
	evt_server_stop();
	return evt_server_port() == -1 ? 0 : 1;
}
