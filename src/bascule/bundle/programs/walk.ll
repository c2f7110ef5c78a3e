; Adds up trees for blocks of rows that walk. `bundle.programs.llvm` says when, and fills in:
;
;   $T      the type of a feature: float or double
;   $LANES  how many rows a block has

%Forest = type {
  i64,  ; columns of a row
  i64,  ; trees
  i64,  ; targets
  ptr,  ; i64 per tree: its root
  ptr,  ; %Node per test and leaf
  ptr,  ; double per node: the weight of a leaf
  ptr   ; i64 per tree: its target
}

; A leaf leads to itself: every value is at most its threshold, which is infinite.
%Node = type <{
  i64,  ; two numbers of 32 bits. The low one: its column, times two, and one more where a missing
        ; value passes the test. The high one: where it leads if it holds; if it fails, to the next
  $T    ; the threshold
}>

; Adds to %sums. %scratch has room for a block: an i64 per row. One tree after the other takes all
; rows, so that it stays in the cache.
define void @add_up(ptr noalias readonly %forest, ptr noalias readonly %x, i64 %rows,
                    ptr noalias %scratch, ptr noalias %sums) {
entry:
  %columns = load i64, ptr %forest
  %trees_at = getelementptr %Forest, ptr %forest, i64 0, i32 1
  %trees = load i64, ptr %trees_at
  %targets_at = getelementptr %Forest, ptr %forest, i64 0, i32 2
  %targets = load i64, ptr %targets_at
  %roots_at = getelementptr %Forest, ptr %forest, i64 0, i32 3
  %roots = load ptr, ptr %roots_at
  %nodes_at = getelementptr %Forest, ptr %forest, i64 0, i32 4
  %nodes = load ptr, ptr %nodes_at
  %weights_at = getelementptr %Forest, ptr %forest, i64 0, i32 5
  %weights = load ptr, ptr %weights_at
  %target_ofs_at = getelementptr %Forest, ptr %forest, i64 0, i32 6
  %target_of = load ptr, ptr %target_ofs_at
  br label %tree

tree:
  %t = phi i64 [0, %entry], [%t_next, %tree_end]
  %root_at = getelementptr i64, ptr %roots, i64 %t
  %root = load i64, ptr %root_at
  %target_at = getelementptr i64, ptr %target_of, i64 %t
  %target = load i64, ptr %target_at
  br label %block

; A block of rows, of which each takes a step in turn until all are at their leaves: while one waits
; for memory, the processor is at the next.

block:
  %first = phi i64 [0, %tree], [%first_next, %block_end]
  %rows_left = sub i64 %rows, %first
  %is_whole = icmp ugt i64 %rows_left, $LANES
  %count = select i1 %is_whole, i64 $LANES, i64 %rows_left
  %first_value = mul i64 %first, %columns
  %first_at = getelementptr $T, ptr %x, i64 %first_value
  br label %start

start:
  %b = phi i64 [0, %block], [%b_next, %start]
  %start_at = getelementptr i64, ptr %scratch, i64 %b
  store i64 %root, ptr %start_at
  %b_next = add i64 %b, 1
  %started = icmp eq i64 %b_next, %count
  br i1 %started, label %round, label %start

round:
  br label %step

step:
  %k = phi i64 [0, %round], [%k_next, %go]
  %row_at = phi ptr [%first_at, %round], [%row_next, %go]
  %moved = phi i64 [0, %round], [%moved_next, %go]
  %place_at = getelementptr i64, ptr %scratch, i64 %k
  %place = load i64, ptr %place_at
  %test_at = getelementptr %Node, ptr %nodes, i64 %place, i32 0
  %test = load i64, ptr %test_at, align 4
  %threshold_at = getelementptr %Node, ptr %nodes, i64 %place, i32 1
  %threshold = load $T, ptr %threshold_at, align 4
  %test_low = and i64 %test, 4294967295
  %column = lshr i64 %test_low, 1
  %value_at = getelementptr $T, ptr %row_at, i64 %column
  %value = load $T, ptr %value_at
  %is_above = fcmp ogt $T %value, %threshold
  %is_missing = fcmp uno $T %value, %threshold
  br i1 %is_missing, label %lacking, label %go

lacking:
  %passes_missing = trunc i64 %test to i1
  %fails_missing = xor i1 %passes_missing, true
  br label %go

go:
  %fails = phi i1 [%is_above, %step], [%fails_missing, %lacking]
  %further = zext i1 %fails to i64
  %below = lshr i64 %test, 32
  %next = add i64 %below, %further
  store i64 %next, ptr %place_at
  %way = xor i64 %next, %place
  %moved_next = or i64 %moved, %way
  %row_next = getelementptr $T, ptr %row_at, i64 %columns
  %k_next = add i64 %k, 1
  %round_done = icmp eq i64 %k_next, %count
  br i1 %round_done, label %round_end, label %step

round_end:
  %all_there = icmp eq i64 %moved_next, 0
  br i1 %all_there, label %leaf, label %round

leaf:
  %l = phi i64 [0, %round_end], [%l_next, %leaf]
  %leaf_at = getelementptr i64, ptr %scratch, i64 %l
  %leaf_place = load i64, ptr %leaf_at
  %weight_at = getelementptr double, ptr %weights, i64 %leaf_place
  %weight = load double, ptr %weight_at
  %own_row = add i64 %first, %l
  %own_sums = mul i64 %own_row, %targets
  %sum_place = add i64 %own_sums, %target
  %sum_at = getelementptr double, ptr %sums, i64 %sum_place
  %sum = load double, ptr %sum_at
  %sum_next = fadd double %sum, %weight
  store double %sum_next, ptr %sum_at
  %l_next = add i64 %l, 1
  %added = icmp eq i64 %l_next, %count
  br i1 %added, label %block_end, label %leaf

block_end:
  %first_next = add i64 %first, $LANES
  %rows_done = icmp uge i64 %first_next, %rows
  br i1 %rows_done, label %tree_end, label %block

tree_end:
  %t_next = add i64 %t, 1
  %trees_done = icmp eq i64 %t_next, %trees
  br i1 %trees_done, label %exit, label %tree

exit:
  ret void
}
