/* SPDX-License-Identifier: Apache-2.0 */
/* Refresh: when objects of a home were changed last, many in one call (fs/refresh.h). It tells nothing but times, and of objects only whose handles the client has. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "conf/cleanup.h"
#include "fs/refresh.h"
#include "fs/server/mounts.h"
#include "fs/server/ops.h"
#include "fs/server/watch.h"

static void look(struct op *o, struct export *ex, const struct handle *h, struct refresh_answer *a)
{
	struct object obj _cleanup_object_ = OBJECT_INIT;
	struct stat st;
	int r = export_open_handle(ex, h, &obj);

	if (r == 0)
		a->watched = obj.mount->local && watch(o->d, obj.fd); /* before the look: a change that it does not see is told. What changes elsewhere (NFS) nobody tells */
	if (r == 0 && fstat(obj.fd, &st) < 0)
		r = -errno;
	if (r < 0) {
		a->err = (uint32_t)-r;
		return;
	}
	a->ctime = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
	a->change = op_change(o->d, &st);
}

/* All of one home, which the caller may use. */
static int look_at_all(struct op *o, const Sprite__Fs__Cred *cred, const uint8_t *p, size_t len, struct refresh_answer *a, size_t *n)
{
	struct export *ex = NULL, *one;
	struct handle h;
	int r;

	for (*n = 0; len; (*n)++) {
		if (*n == REFRESH_MAX || len < 1u + *p)
			return -EINVAL;
		a[*n] = (struct refresh_answer){0};
		r = export_unpack(&o->d->exports, p + 1, *p, &h, &one);
		if (r < 0) {
			a[*n].err = (uint32_t)-r;
		} else if (ex ? one != ex : !one->conf->home) {
			return -EINVAL;
		} else {
			r = ex ? 0 : op_access(o, one, cred);
			if (r < 0)
				return r;
			ex = one;
			look(o, ex, &h, &a[*n]);
		}
		len -= 1u + *p;
		p += 1u + *p;
	}
	return 0;
}

int op_refresh(struct op *o, const ProtobufCMessage *m)
{
	const Sprite__Fs__RefreshReq *in = (const void *)m;
	Sprite__Fs__RefreshRep rep = SPRITE__FS__REFRESH_REP__INIT;
	size_t len = o->in->bulk_len, n = 0;
	_cleanup_free_ uint8_t *bytes = len <= REFRESH_MAX * (1u + HANDLE_MAX) ? malloc(len + 1) : NULL;
	struct refresh_answer *a = bytes ? calloc(REFRESH_MAX, sizeof(*a)) : NULL;
	int r;

	if (!a)
		return len > REFRESH_MAX * (1u + HANDLE_MAX) ? -EINVAL : -ENOMEM;
	rep.mounts = atomic_load(&o->d->exports.mounts); /* before the look: what is mounted meanwhile counts as after it */
	rpc_msg_copy(o->in, bytes, len);
	r = look_at_all(o, in->cred, bytes, len, a, &n);
	if (r < 0) {
		free(a);
		return r;
	}
	return op_done_bulk(o, &rep.base, a, n * sizeof(*a));
}
