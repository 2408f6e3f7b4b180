"""`hemofed data check`: what is wrong with a lab's images, before training finds it.

The command ends with exit code 0 when it finds nothing, with 10 for warnings only, and with 20 for
at least one failure: an unreadable image, say, an unknown label, one file under two labels or in
two splits, or one patient in two splits. The codes 1 to 6 mean what they mean for every command:
the check itself is not possible.

The command changes nothing in the source. The function behind it is
`client.data.quality.check.check`; this module imports nothing, so the command line starts quickly.
"""
