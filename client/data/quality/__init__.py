"""`hemofed data check`: what is wrong with a lab's images, before training finds out.

The command's exit code is 0 where nothing was found, 10 where there are warnings only, and 20
where there is at least one failure: an image that cannot be read, an unknown label, one file
under two labels or in two splits, one patient in two splits. 1 to 6 stay what they are for every
command: the source itself cannot be checked.

Nothing in the source is changed. `client.data.quality.check.check` is the function behind it; this
module imports nothing, so that the command line starts quickly.
"""
